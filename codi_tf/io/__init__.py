"""Files and arrays: images, depth maps, tensors, weights, color transfer, and atomic writes."""
