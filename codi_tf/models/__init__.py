"""Networks: keras.Model subclasses that know no schedule, no loss and no sampler."""
