"""What every room stands on: errors, seeds, noise, progress, number formats. Imports no other room."""
