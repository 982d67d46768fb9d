"""The networks in a Jupyter notebook: those in the source of its code cells."""

from __future__ import annotations

import json
import re

from lib.importing.module_graph import ImportSourceError, ModuleGraph
from lib.importing.python_source import networks_in_source

# Notebooks hold pictures too.
MAX_NOTEBOOK_BYTES = 20_000_000
_MAGIC = re.compile(r"^\s*(?:[!?]|%(?!%)|[\w.,\s]+=\s*[!%])|\?\s*$")
_CELL_MAGIC = re.compile(r"^\s*%%(?!time\b|timeit\b|capture\b)")


def networks_in_notebook(data: bytes) -> tuple[ModuleGraph, ...]:
    """Read the networks in a notebook's code cells. Lines are counted over the cells together.

    Raises ImportSourceError if the file is no notebook, or has no network.
    """
    return networks_in_source(notebook_source(data))


def notebook_source(data: bytes) -> str:
    """The code cells of a notebook as one text, with empty lines for magics. Raises ImportSourceError."""
    if len(data) > MAX_NOTEBOOK_BYTES:
        raise ImportSourceError(
            f"The notebook has {len(data) / 1e6:.1f} MB; at most {MAX_NOTEBOOK_BYTES / 1e6:.0f} MB are read. "
            "Clear its outputs and save it again."
        )
    try:
        notebook = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise ImportSourceError("The file is no notebook, since it is no JSON. Save it again as .ipynb.") from None
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if cells is None and isinstance(notebook, dict) and isinstance(notebook.get("worksheets"), list):
        # Notebooks of version 3 have sheets with cells.
        sheets = [sheet for sheet in notebook["worksheets"] if isinstance(sheet, dict)]
        cells = [cell for sheet in sheets for cell in sheet.get("cells") or ()]
    if not isinstance(cells, list):
        raise ImportSourceError("The file is no notebook, since it has no cells. Save it again as .ipynb.")
    texts = [_cell_source(cell) for cell in cells if isinstance(cell, dict) and cell.get("cell_type") == "code"]
    if not texts:
        raise ImportSourceError("The notebook has no code cells. Choose one with the network's class.")
    return "\n".join(texts)


def _cell_source(cell: dict[str, object]) -> str:
    source = cell.get("source", cell.get("input", ""))
    if isinstance(source, list):
        source = "".join(part for part in source if isinstance(part, str))
    lines = source.split("\n") if isinstance(source, str) else []
    first = next((line for line in lines if line.strip()), "")
    if _CELL_MAGIC.match(first):
        return "\n" * (len(lines) - 1)
    return "\n".join(_without_magic(line) for line in lines)


def _without_magic(line: str) -> str:
    if _MAGIC.match(line) is None and not line.lstrip().startswith("%%"):
        return line
    # A block may consist of a magic alone.
    indent = line[: len(line) - len(line.lstrip())]
    return f"{indent}pass" if indent else ""
