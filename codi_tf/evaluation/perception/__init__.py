"""Perceptual networks: LPIPS, Inception (FID), CLIP (CLIP score). The user provides their published weights."""
