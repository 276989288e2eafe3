"""Samplers and networks as graph operations, which every format can write."""
