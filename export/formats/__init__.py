"""One package for each file format."""
