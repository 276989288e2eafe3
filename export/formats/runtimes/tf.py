"""TensorFlow as a runtime. Imports it only when it is used."""

from __future__ import annotations

from export.formats.format import GraphFile, Run
from export.formats.runtimes import RUNTIMES
from export.formats.runtimes.runtime import RunOptions, Runtime


@RUNTIMES.register("tensorflow")
class TensorFlow(Runtime):
    """TensorFlow, which has its own setting for threads, and its own choice of a device."""

    title = "TensorFlow"
    module = "tensorflow"
    package = "tensorflow"
    needs_tensorflow = True

    @classmethod
    def load(cls, graph: GraphFile, options: RunOptions) -> Run:
        """A signature of a SavedModel folder."""
        from export.formats.saved_model.write import load

        return load(graph)
