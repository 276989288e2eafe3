"""The mathematics of diffusion: schedules, conversions, losses and samplers, as pure functions."""
