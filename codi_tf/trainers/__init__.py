"""The keras.Model whose `train_step` runs a method, and its optimizer."""
