"""Number formats of weights in files, and their quantization."""
