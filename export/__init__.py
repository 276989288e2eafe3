"""Trained models as packages that run without codi_tf: SavedModel, LiteRT (TFLite) and ONNX.

`export.build.make_package` and `codi export` make a package, `codi run` runs it. Importing this package imports neither
TensorFlow nor Keras.
"""
