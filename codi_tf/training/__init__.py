"""Training runs: from a config to a result, with states, strategies and monitoring."""
