"""Comparison of exported packages with their Keras model: the gate, and the report."""
