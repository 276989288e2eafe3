"""An exported ONNX package as a static page that runs it in the browser: see `export.web.site`."""
