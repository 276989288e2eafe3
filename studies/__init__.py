"""Studies: long comparisons of methods, and the programs that reproduce them. Not part of the package."""
