"""The format SavedModel, for TensorFlow and TensorFlow Serving. Imports TensorFlow only when it is used."""

from __future__ import annotations

from export.formats import FORMATS
from export.formats.format import Format


@FORMATS.register("saved_model")
class SavedModel(Format):
    """SavedModel: a folder with a version number, as TensorFlow Serving requires."""

    suffix = "/1"
    runtimes = ("tensorflow",)

    @staticmethod
    def write(programs, emit, path, weight_formats):
        from export.formats.saved_model.write import write

        return write(programs, path)

    @staticmethod
    def stored_bytes(path):
        from export.formats.saved_model.write import stored_bytes

        return stored_bytes(path)
