"""Loading LiteRT without the note that it prints."""

from __future__ import annotations

import base64
import functools

from codi_tf.core.quiet import silent_stderr

ONE_RELU = base64.b64decode(  # the smallest file: y = relu(x), both float32 [1]
    "GAAAAFRGTDMAAA4AFAAQAAwACAAAAAQADgAAABAAAAAcAAAA0AAAAAMAAAABAAAACAAAAAQABAAEAAAAAQAAABAAAAAMABQAEAAMAAgABAAMAAAA"
    "EAAAADwAAABAAAAARAAAAAEAAAAQAAAAAAAKAAwAAAAIAAQACgAAAAgAAAAMAAAAAQAAAAEAAAABAAAAAAAAAAEAAAABAAAAAQAAAAAAAAACAAAA"
    "MAAAAAQAAADk////CAAAAAwAAAABAAAAeQAAAAEAAAABAAAADAAMAAgAAAAAAAQADAAAAAgAAAAMAAAAAQAAAHgAAAABAAAAAQAAAAEAAAAQAAAA"
    "DAAMAAsAAAAAAAQADAAAABMAAAAAAAAT"
)


@functools.cache
def note_nothing() -> None:
    """Discard the note about a delegate that LiteRT writes once in a process, by letting it write it here.

    It goes to file descriptor 2, and no setting turns it off.
    """
    from ai_edge_litert.interpreter import Interpreter

    with silent_stderr():
        Interpreter(model_content=ONE_RELU).allocate_tensors()
