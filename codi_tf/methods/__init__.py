"""Training methods, one file each: what they share with the trainer is `method.Method`."""
