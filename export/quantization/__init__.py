"""In which number format each weight of a file is stored."""
