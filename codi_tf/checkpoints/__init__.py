"""Reading and writing the files of other libraries: Stable Diffusion, small decoders, tokenizers."""
