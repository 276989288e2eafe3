"""SavedModel: for TensorFlow and TensorFlow Serving."""
