"""A comparison of the paper's systems on the embedded photos: `python -m studies.paper`."""
