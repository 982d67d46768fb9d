"""The networks in a file of any known kind, as architectures. Needs neither torch nor numpy."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import PurePath

from lib.design.analysis import analyze
from lib.design.layers import Architecture
from lib.importing.conversion import converted
from lib.importing.module_graph import ImportSourceError, ModuleGraph, ModuleNode
from lib.importing.notebook import MAX_NOTEBOOK_BYTES, networks_in_notebook, notebook_source
from lib.importing.onnx_content import MAX_ONNX_BYTES
from lib.importing.python_source import networks_in_source
from lib.importing.source_text import MAX_SOURCE_BYTES, SourceText

# The largest file of any kind.
MAX_BYTES = max(MAX_SOURCE_BYTES, MAX_NOTEBOOK_BYTES, MAX_ONNX_BYTES)
SUFFIXES = (".py", ".txt", ".md", ".ipynb", ".onnx")
_SOURCE_SUFFIXES = (".py", ".txt", ".md", "")
_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}


@dataclass(frozen=True)
class ImportedNetwork:
    """One network of a file.

    - `name`: of the class or variable, "" if no network was found.
    - `architecture`, `num_params`: None if there is a `problem`, a sentence with a remedy.
    - `notes`: sentences about what the architecture does not keep.
    - `nodes`: for each row of `lib.design.analysis.analyze`, the module of the file that it was made of.
    """

    name: str
    architecture: Architecture | None
    num_params: int | None
    problem: str | None = None
    notes: tuple[str, ...] = ()
    nodes: tuple[ModuleNode, ...] = ()


def import_networks(name: str, data: bytes) -> tuple[ImportedNetwork, ...]:
    """Read the networks in a file, or in pasted text, whose name is "".

    At least one is returned: a file without networks gives one with a problem. Nothing is executed, and no other file
    is read.
    """
    try:
        graphs, source = _graphs(name, data)
    except ImportSourceError as error:
        return (ImportedNetwork("", None, None, str(error)),)
    return tuple(_imported(graph, source) for graph in graphs)


def _graphs(name: str, data: bytes) -> tuple[tuple[ModuleGraph, ...], SourceText | None]:
    """The networks of a file, and its text if it has one. Raises ImportSourceError."""
    suffix = PurePath(name).suffix.lower()
    if suffix == ".onnx":
        from lib.importing.onnx_model import networks_in_onnx

        return networks_in_onnx(data), None
    if not data.strip():
        raise ImportSourceError("There is no text. Give PyTorch source with a class or an nn.Sequential.")
    if suffix == ".ipynb" or (suffix in _SOURCE_SUFFIXES and _is_notebook(data)):
        return networks_in_notebook(data), SourceText(notebook_source(data))
    if suffix not in _SOURCE_SUFFIXES:
        raise ImportSourceError(f"A file {suffix[:12]} cannot be read. Choose one of {', '.join(SUFFIXES)}.")
    if len(data) > 2 * MAX_SOURCE_BYTES:
        raise ImportSourceError(
            f"The source has {len(data) / 1e6:.1f} MB; at most {MAX_SOURCE_BYTES / 1e6:.1f} MB are read. Keep the part "
            "with the network."
        )
    text = _decoded(data)
    return networks_in_source(text), SourceText(text)


def _is_notebook(data: bytes) -> bool:
    """Whether the bytes are a notebook, whatever the file is called."""
    if len(data) > MAX_NOTEBOOK_BYTES or not data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return False
    try:
        found = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and ("cells" in found or "worksheets" in found)


def _decoded(data: bytes) -> str:
    """Text in UTF-8, in UTF-16 with a mark, or otherwise in Latin-1, in which every byte is a character."""
    encoding = next((encoding for mark, encoding in _MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _imported(graph: ModuleGraph, source: SourceText | None) -> ImportedNetwork:
    if graph.problem is not None:
        return ImportedNetwork(graph.name, None, None, graph.problem, graph.notes)
    try:
        found = converted(graph)
    except ImportSourceError as error:
        where = source.at(error.line) if source else ""
        return ImportedNetwork(graph.name, None, None, f"{where}{error}", graph.notes)
    analysis = analyze(found.architecture)
    notes = tuple(dict.fromkeys((*graph.notes, *found.notes)))
    return ImportedNetwork(graph.name, found.architecture, analysis.num_params, None, notes, found.nodes)
