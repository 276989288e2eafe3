"""Perceptual networks whose published weights the user brings: LPIPS, Inception (FID), CLIP (CLIP score)."""
