"""Exported packages against their Keras model: the gate, and the report."""
