"""Refresh the lists of modules and packages in the documentation from the code.

    python -m docs.modules

- `<!-- modules: FOLDER -->` to `<!-- end of modules -->`: the modules of a folder and of its packages, with the first
  sentences of their docstrings.
- `<!-- layers -->` to `<!-- end of layers -->`: a diagram of the packages, from the import contract in pyproject.toml.
"""

from __future__ import annotations

import ast
import re
import tomllib
from itertools import pairwise
from pathlib import Path

from docs.pages import ROOT, rewrite

_MODULES = re.compile(r"(<!-- modules: ([\w/]+) -->\n).*?(<!-- end of modules -->)", re.DOTALL)
_LAYERS = re.compile(r"(<!-- layers -->\n).*?(<!-- end of layers -->)", re.DOTALL)


def refreshed(page: str) -> str:
    """Return the page with its lists and its diagram made from the code."""
    page = _MODULES.sub(lambda block: f"{block[1]}{_list(block[2])}\n{block[3]}", page)
    return _LAYERS.sub(lambda block: f"{block[1]}{_diagram()}\n{block[2]}", page)


def _diagram() -> str:
    """A Mermaid flowchart, one box for each layer of the first contract that has layers."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    boxes = [f'l{number}["{" · ".join(layer.split(" | "))}"]' for number, layer in enumerate(layers)]
    arrows = [f"    {above} --> {below}" for above, below in pairwise(['l["app.py · pages/"]', *boxes])]
    return "\n".join(["```mermaid", "flowchart TD", *arrows, "```"])


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
