"""How the documentation site reads docstrings (mkdocs.yml)."""

import re

import griffe


class PlainBrackets(griffe.Extension):
    """Adjacent brackets in docstrings, as of shapes and options, are text: [A] [B] is no link of Markdown."""

    def on_object(self, *, obj: griffe.Object, **_) -> None:
        """Escape the second bracket of each pair, outside of code."""
        if obj.docstring is not None:
            obj.docstring.value = escaped(obj.docstring.value)


def escaped(text: str) -> str:
    """A docstring with escaped brackets: sections are indented, too, but code comes after an empty line."""
    lines, code, before = [], False, "."
    for line in text.splitlines():
        if line.strip():
            code = line.startswith("    ") and (code or not before.strip())
        if not code:
            parts = re.split(r"(`[^`]*`)", line)  # every other part is code
            line = "".join(part if i % 2 else re.sub(r"\](\s?)\[", r"]\1\\[", part) for i, part in enumerate(parts))
            line = re.sub(r"^(\s*)\[", r"\1\\[", line) if before.rstrip().endswith("]") else line
        lines.append(line)
        before = line
    return "\n".join(lines)
