"""The lab without a screen: `python -m lib describe "4 8 M 10 A"`. Needs no torch, so it answers at once."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from lib.analysis import NetworkAnalysis, analyse, fold, percent
from lib.architecture import Architecture, ArchitectureError, notation, parse, shape_text

COLUMNS = ("Layer", "Output", "Parameters", "Share", "MACs", "Activations", "Receptive field", "Jump", "Centre")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 where the network cannot be built."""
    parser = argparse.ArgumentParser(prog="python -m lib", description="Receptive without a screen.")
    commands = parser.add_subparsers(required=True, metavar="command")
    describe = commands.add_parser("describe", help="what each layer of a network outputs, costs and sees")
    describe.add_argument("network", help='in the notation, such as "4 4 8 M 12 12 16 M 20v 10v A"')
    describe.add_argument("--modules", action="store_true", help="one row for every nn module instead of every layer")
    describe.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args(arguments)
    try:
        architecture = parse(options.network)
    except ArchitectureError as error:
        print(error, file=sys.stderr)
        return 2
    analysis = analyse(architecture)
    if not options.modules:
        analysis = fold(analysis, architecture)
    print(as_json(analysis, architecture) if options.json else as_table(analysis))
    return 0


def as_json(analysis: NetworkAnalysis, architecture: Architecture) -> str:
    """The analysis with its own field names, and the network in the notation."""
    return json.dumps({"network": notation(architecture), **asdict(analysis)}, indent=2)


def as_table(analysis: NetworkAnalysis) -> str:
    """The design page's table in plain text, the sums last."""
    rows = [
        (
            row.label,
            shape_text(row.output_shape),
            f"{row.num_params:,}",
            percent(row.share),
            f"{row.macs:,}",
            f"{row.activations:,}",
            f"{row.receptive_field}",
            f"{row.jump}",
            f"{row.center:g}",
        )
        for row in analysis.rows
    ]
    rows.append(
        (
            "Total",
            "",
            f"{analysis.num_params:,}",
            percent(1),
            f"{analysis.macs:,}",
            f"{analysis.activations:,}",
            "",
            "",
            "",
        )
    )
    widths = [max(len(row[column]) for row in [COLUMNS, *rows]) for column in range(len(COLUMNS))]

    def line(row: Sequence[str]) -> str:
        left = [text.ljust(width) for text, width in zip(row[:2], widths[:2], strict=True)]
        right = [text.rjust(width) for text, width in zip(row[2:], widths[2:], strict=True)]
        return "  ".join(left + right).rstrip()

    return "\n".join([line(COLUMNS), line(["─" * width for width in widths]), *map(line, rows)])


if __name__ == "__main__":
    sys.exit(main())
