"""Files and arrays: images, depth maps, tensors, weights, colors, and files that appear whole or not at all."""
