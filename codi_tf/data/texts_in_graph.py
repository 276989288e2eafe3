"""The text of a caption's file in operations of TensorFlow: `prompts.text_of` of NAME.txt, byte by byte."""

from __future__ import annotations

import tensorflow as tf

from codi_tf.core.tensors import Tensor
from codi_tf.data.prompts import MARKS

_ICU = {"utf-8": "UTF-8", "utf-16-le": "UTF-16LE", "utf-16-be": "UTF-16BE", "utf-32-le": "UTF-32LE"}
_ICU["utf-32-be"] = "UTF-32BE"
_SPACE = (  # what `str.split` splits at
    r"[\t-\r\x1c-\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]+"
)


def text_in_graph(content: Tensor) -> Tensor:
    """The text of a file, on one line: string [], UTF-8. Fails for bytes in another encoding, and NUL characters.

    Args:
        content: string [], UTF-8, or UTF-16 or UTF-32 with a byte order mark.
    """
    begins = [tf.strings.substr(content, 0, len(mark)) == mark for mark, _ in MARKS]
    count = len(MARKS)
    first = tf.reduce_min(tf.where(tf.stack(begins), tf.range(count), count))

    def decoded(mark: bytes, encoding: str) -> Tensor:
        rest = tf.strings.substr(content, len(mark), tf.strings.length(content))
        return tf.strings.unicode_transcode(rest, _ICU[encoding], "UTF-8", errors="strict")

    ways = [lambda one=one: decoded(*one) for one in (*MARKS, (b"", "utf-8"))]
    text = tf.switch_case(first, ways)
    has_nul = tf.strings.regex_full_match(text, r"[^\x00]*\x00(?s:.*)")
    with tf.control_dependencies([tf.debugging.Assert(tf.logical_not(has_nul), ["NUL characters in a text"])]):
        spaced = tf.strings.regex_replace(text, _SPACE, " ")
    return tf.strings.strip(spaced)
