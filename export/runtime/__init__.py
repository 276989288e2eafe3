"""Runs a package with NumPy, Pillow and one runtime; imports neither TensorFlow nor Keras."""
