"""What the documentation site takes from the code when it is built (mkdocs.yml)."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "codi_tf" / "__init__.py"
PLACE = "<!-- public names -->"


def on_page_markdown(markdown: str, **_) -> str:
    """Put the public names where a page asks for them, and let tables inside <details> be rendered."""
    if PLACE in markdown:
        entries = [f"- `codi_tf.{name}`: [{module}.{name}][]" for name, module in public_names().items()]
        markdown = markdown.replace(PLACE, "\n".join(entries))
    return markdown.replace("<details>", '<details markdown="1">')


def public_names() -> dict[str, str]:
    """Name -> module of what `codi_tf` offers, read from its source."""
    for node in ast.parse(PACKAGE.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_PUBLIC":
            return ast.literal_eval(node.value)
    raise ValueError(f"{PACKAGE}: no _PUBLIC")
