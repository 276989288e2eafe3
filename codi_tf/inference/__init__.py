"""Images from trained models: sampling, text to image, tiles. Imports nothing of training."""
