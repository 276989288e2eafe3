"""Training methods: each knows its networks and gives the loss of a batch, term by term and example by example.

What the trainer relies on: `student` (the network being trained), `start_average()` (makes its moving average: the same
weights in the same order) and `loss_terms(batch, seed, step) -> {term: [B]}`.
"""
