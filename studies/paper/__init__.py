"""The paper's systems side by side on the embedded photos: `python -m studies.paper`."""
