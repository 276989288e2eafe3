"""Runs: from a config to a result, with states, strategies, monitoring."""
