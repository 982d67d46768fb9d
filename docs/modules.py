"""Refresh the lists of modules in the documentation, from the first sentences of their docstrings.

    python -m docs.modules

A list stands between `<!-- modules: FOLDER -->` and `<!-- end of modules -->`; each package in the folder gets its own.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from docs.pages import ROOT, rewrite

_BLOCK = re.compile(r"<!-- modules: ([\w/]+) -->\n.*?<!-- end of modules -->", re.DOTALL)


def refreshed(page: str) -> str:
    """The page's text with its lists as the modules describe themselves."""
    return _BLOCK.sub(lambda block: f"<!-- modules: {block[1]} -->\n{_list(block[1])}\n<!-- end of modules -->", page)


def _list(folder: str) -> str:
    sections = []
    for package in [ROOT / folder, *sorted(path.parent for path in (ROOT / folder).glob("*/**/__init__.py"))]:
        modules = [path for path in sorted(package.glob("*.py")) if path.name != "__init__.py"]
        rows = [f"| `{path.name}` | {summary(path)} |" for path in modules]
        described = summary(package / "__init__.py") if (package / "__init__.py").is_file() else ""
        title = f"**{package.relative_to(ROOT).as_posix()}**" + (f": {described}" if described else "")
        sections.append("\n".join([title, "", "| module | |", "| --- | --- |", *rows] if rows else [title]))
    return "\n\n".join(sections)


def summary(path: Path) -> str:
    """The first sentence of a module's docstring, on one line."""
    described = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(described.partition("\n\n")[0].split())
    return re.split(r"(?<=\.) (?=[A-Z`])", paragraph)[0].replace("|", "\\|")


if __name__ == "__main__":
    rewrite(refreshed)
