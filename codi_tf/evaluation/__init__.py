"""How good images are: metrics, perceptual networks, reports."""
