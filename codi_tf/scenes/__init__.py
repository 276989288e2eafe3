"""Rendered scenes: images whose caption, depth, objects and edits are known exactly."""
