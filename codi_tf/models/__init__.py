"""Networks: keras.Model subclasses, independent of schedules, losses and samplers."""
