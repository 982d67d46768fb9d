"""`describe`: print the analysis of a network. Needs no torch, so it starts quickly."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from lib.cli.output import json_text, write_line
from lib.design.analysis import NetworkAnalysis, analyze, per_layer
from lib.design.layers import Architecture
from lib.design.notation import notation, parse
from lib.export.tables import layers_text


def add_describe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("network", help='in the notation, such as "4 4 8 M 12 12 16 M 20v 10v A"')
    parser.add_argument("--modules", action="store_true", help="one row for each PyTorch module instead of each layer")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.set_defaults(command=describe)


def describe(options: argparse.Namespace) -> int:
    """Print the analysis. Raises ArchitectureError."""
    architecture = parse(options.network)
    analysis = analyze(architecture)
    if not options.modules:
        analysis = per_layer(analysis, architecture)
    write_line(as_json(analysis, architecture) if options.json else layers_text(analysis))
    return 0


def as_json(analysis: NetworkAnalysis, architecture: Architecture) -> str:
    """Return the network in the notation and the fields of its analysis as JSON."""
    return json_text({"network": notation(architecture), **asdict(analysis)}, indent=2)
