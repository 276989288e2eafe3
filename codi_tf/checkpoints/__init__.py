"""Pre-trained models from outside, in and out: Stable Diffusion, adapters, tokenizers."""
