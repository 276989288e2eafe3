"""Packages on disk: the manifest, and adapters that are plugged into packages."""
