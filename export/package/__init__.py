"""Exported packages: the manifest, how one is made, what it reports."""
