"""Studies: comparisons that took long to make, and the programs that make them again. Not part of the package."""
