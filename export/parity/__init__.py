"""The gate: an exported graph makes the picture that the Keras model makes."""
