"""`import`: read the networks in PyTorch source, notebooks and ONNX files. Needs no torch, so it starts quickly."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict

from lib.cli.output import json_text, write_line
from lib.design.analysis import analyze
from lib.design.notation import notation
from lib.export.tables import layers_text
from lib.files import regular_file
from lib.importing.networks import MAX_BYTES, ImportedNetwork, import_networks
from lib.text.untrusted_text import visible

STANDARD_INPUT = "-"


def add_import(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Nothing in a file is executed. Exit status: 0 each file has a network that was read, 1 some do not, 2 invalid "
        "arguments."
    )
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="Python source, a notebook or an ONNX file; - reads standard input"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a line for each network")
    parser.set_defaults(command=import_files)


def import_files(options: argparse.Namespace) -> int:
    """Print the networks of each file. Return 0, or 1 if a file has none that could be read. Raises OutputError."""
    status = 0
    found = [(file, network) for file in options.files for network in _networks(file)]
    for file in options.files:
        if all(network.problem for name, network in found if name == file):
            status = 1
    for file, network in found:
        write_line(_as_json(file, network) if options.json else _as_text(file, network, is_single=len(found) == 1))
    return status


def _networks(file: str) -> tuple[ImportedNetwork, ...]:
    try:
        if file == STANDARD_INPUT:
            return import_networks("", _standard_input())
        return import_networks(file, regular_file.read(file, MAX_BYTES))
    except (OSError, ValueError) as error:
        # A name with a null byte is a ValueError.
        reason = error.strerror if isinstance(error, OSError) else "its name is no name of a file"
        return (ImportedNetwork("", None, None, f"It cannot be opened ({reason}). Check its name."),)


def _standard_input() -> bytes:
    """At most one byte more than is read of any file."""
    return b"" if sys.stdin is None else sys.stdin.buffer.read(MAX_BYTES + 1)


def _as_json(file: str, network: ImportedNetwork) -> str:
    architecture = network.architecture
    return json_text(
        {
            "file": file,
            "name": network.name,
            "notation": notation(architecture) if architecture else None,
            "num_params": network.num_params,
            "layers": [asdict(row) for row in analyze(architecture).rows] if architecture else [],
            "problem": network.problem,
            "notes": network.notes,
        }
    )


def _as_text(file: str, network: ImportedNetwork, *, is_single: bool) -> str:
    title = visible(f"{file}: {network.name}" if network.name else file)
    lines = [title]
    if network.architecture:
        lines += [f"  {notation(network.architecture)}", f"  {network.num_params:,} parameters"]
    lines += [f"  {'Problem' if text == network.problem else 'Note'}: {visible(text)}" for text in _sentences(network)]
    if network.architecture and is_single:
        lines += ["", layers_text(analyze(network.architecture))]
    return "\n".join(lines)


def _sentences(network: ImportedNetwork) -> list[str]:
    return [*([network.problem] if network.problem else []), *network.notes]
