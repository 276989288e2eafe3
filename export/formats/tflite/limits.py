"""The limits of LiteRT files."""

MAX_FILE = 2**31 - 1  # bytes: phones map a file with signed offsets
