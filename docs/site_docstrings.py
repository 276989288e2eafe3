"""How the documentation site reads docstrings (mkdocs.yml)."""

import re

import griffe

SECTION = re.compile(r"(Args|Attributes|Returns|Yields|Raises):")


class PlainBrackets(griffe.Extension):
    """Adjacent brackets in docstrings, as of shapes and options, are text: [A] [B] is no link of Markdown."""

    def on_object(self, *, obj: griffe.Object, **_) -> None:
        """Escape the second bracket of each pair, outside of code."""
        if obj.docstring is not None:
            obj.docstring.value = escaped(obj.docstring.value)


def escaped(text: str) -> str:
    """A docstring with escaped brackets. What is indented is a section's text, or else code, which stays."""
    lines, section, before = [], False, ""
    for line in text.splitlines():
        if line.strip() and not line.startswith("    "):
            section = SECTION.fullmatch(line) is not None
        if section or not line.startswith("    "):
            parts = re.split(r"(`[^`]*`)", line)  # every other part is code
            line = "".join(part if i % 2 else re.sub(r"\](\s?)\[", r"]\1\\[", part) for i, part in enumerate(parts))
            if before.endswith("]"):
                line = re.sub(r"^(\s*)\[", r"\1\\[", line)
        lines.append(line)
        before = line
    return "\n".join(lines)
