"""Trained models as packages that run without this library: SavedModel, LiteRT (TFLite) and ONNX.

`export.build.make_package` and `python -m export` make one, `python -m export.run` runs one. Importing this
package imports neither TensorFlow nor Keras.
"""
