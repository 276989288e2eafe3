"""ONNX: for ONNX Runtime and whatever else reads it."""
