"""A static web page that runs an exported ONNX package in the browser: see `export.web.site`."""
