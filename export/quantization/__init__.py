"""The number format of each weight in a file, and its quantization."""
