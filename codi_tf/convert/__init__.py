"""Stable Diffusion checkpoints in and out: diffusers folders, single files in the original layout, KerasCV."""
