"""Running packages with NumPy, Pillow and one runtime, without TensorFlow and Keras."""
