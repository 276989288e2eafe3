"""The mathematics: schedules, conversions, losses and samplers, as pure functions of callables."""
