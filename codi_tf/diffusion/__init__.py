"""The mathematics: schedules, conversions, losses, samplers, as pure functions that take callables."""
