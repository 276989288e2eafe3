"""The base that all packages import: errors, registries, seeds, noise, progress, number formats."""
