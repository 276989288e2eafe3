"""The commands of the program `codi`."""
