"""Published perceptual networks, for measuring pictures: LPIPS, Inception's features (FID), CLIP's similarity.

Their weights are the user's to bring, in files that execute nothing when they are read. Pictures are float32
[B, H, W, 3] in [-1, 1]; networks are channels last and never trained.
"""
