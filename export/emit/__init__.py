"""The sampler and its networks as operations that any format can write down."""
