"""The base of all packages: errors, registries, seeds, noise, progress, number formats. Imports no other package."""
