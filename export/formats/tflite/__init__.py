"""TFLite flatbuffers: for LiteRT, on phones and desktops."""
