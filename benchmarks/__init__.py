"""Scripts that measure speed and memory; docs/benchmarks.md quotes them."""
