"""Running a package with NumPy, Pillow and one runtime, without TensorFlow and Keras."""
