"""Refresh the tables of figures in the documentation from the reports in benchmarks/*.json.

    python -m docs.benchmarks

A table stands between `<!-- table: NAME -->` and `<!-- end of table -->`, in any page; NAME is a key of TABLES.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from docs.pages import ROOT, rewrite
from lib.design.recipe import RECIPES, from_json
from lib.evaluation.proportion import accuracy_text
from lib.text.formatting import percent

NOT_RECORDED = "not recorded"
TEST_IMAGES = 10_000
# How many were measured, for reports that do not say so: the digits in the files of the two data sets, and the marks
# that benchmarks/drawings.py makes.
COUNTS = {
    "pen characters": 1_180,
    "pen digits, lifts put back": 3_498,
    "pen digits, as they are": 3_498,
    "letters": 39,
    "scribbles of 1 stroke": 100,
    "scribbles of 2 strokes": 100,
    "scribbles of 3 strokes": 100,
}
_BLOCK = re.compile(r"<!-- table: ([a-z ]+) -->\n.*?<!-- end of table -->", re.DOTALL)

Report: TypeAlias = Mapping[str, Any]
Rows: TypeAlias = Iterable[Iterable[object]]


@dataclass(frozen=True)
class Reports:
    """The content of the three JSON reports."""

    accuracy: Report
    drawings: Report
    speed: Report


def reports() -> Reports:
    """Read the reports in benchmarks/."""
    return Reports(_report("accuracy"), _report("drawings"), _report("report"))


def _report(name: str) -> Report:
    found: Report = json.loads((ROOT / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))
    return found


def refreshed(page: str, found: Reports) -> str:
    """Return the page with its tables made from the reports. Raises KeyError for an unknown table."""
    return _BLOCK.sub(
        lambda block: f"<!-- table: {block[1]} -->\n{TABLES[block[1]](found)}\n<!-- end of table -->", page
    )


def _table(header: Iterable[str], rows: Rows) -> str:
    header = tuple(header)
    lines = (header, ("---",) * len(header), *rows)
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines)


def _recorded(report: Report, key: str, unit: str = "") -> str:
    value = report.get(key)
    if value is None:
        return NOT_RECORDED
    return f"{value:,}{unit}" if isinstance(value, int | float) else f"{value}{unit}"


def highlights(found: Reports) -> str:
    """A few figures, for the README."""
    tables, speed = found.accuracy["tables"], found.speed
    names = ("three-epochs-9274", "quick-9274", "assignment-9274", "small-4468")
    drawn = found.drawings["drawings-39706"]
    rows = [
        *((f"{_recipe_title(t)}: {t['num_params']:,} parameters, {t['epochs']} epochs", _mean(t), _seeds(t))
          for t in (tables[name] for name in names)),
        ("redrawn test digits that the network for drawings reads right",
         accuracy_text(drawn["read_right"]["as MNIST was made"], drawn["drawings"]), _seeds(tables["drawings-39706"])),
        ("training speed, relative to the usual PyTorch loop", f"{speed['throughput_ratio']} times", ""),
        ("from a slider to the new table, 95th percentile", _recorded(speed, "design_p95_ms", " ms"), ""),
    ]  # fmt: skip
    return _table(("figure", "value", "seeds"), rows)


def machines(found: Reports) -> str:
    """The machine and the versions of each report."""
    measured = [("accuracy", "make accuracy", name, report) for name, report in found.accuracy["tables"].items()]
    measured += [("drawings", "make drawings", name, report) for name, report in found.drawings.items()]
    measured.append(("all else", "make bench", "", found.speed))
    keys = ("cpu", "cores", "system", "python", "torch", "date")
    rows: dict[tuple[str, ...], list[str]] = {}
    for what, command, name, report in measured:
        # The first reports of speed had the number of cores alone.
        known = {"cores": report.get("cores"), **report.get("environment", {})}
        row = (what, f"`{command}`", *(_recorded(known, key) for key in keys))
        rows.setdefault(row, []).append(f"`{name}`" if name else "")
    table = [(" ".join([what, ", ".join(names)]).strip(), *rest) for (what, *rest), names in rows.items()]
    return _table(("what", "made by", "CPU", "cores", "system", "Python", "torch", "date"), table)


def accuracy(found: Reports) -> str:
    """Each measured recipe with its seeds."""
    rows = [
        (
            f"`{name}`",
            f"`{report['network']}`",
            f"{report['num_params']:,}",
            _recipe_title(report),
            report["epochs"],
            _seeds(report),
            ", ".join(f"{100 * run['test_accuracy']:.2f}" for run in report["runs"]) + " %",
            _mean(report),
            f"{report['median_seconds']:.0f} s",
        )
        for name, report in found.accuracy["tables"].items()
    ]
    header = ("name", "network", "parameters", "recipe", "epochs", "seeds", "each", "mean", "median time")
    return _table(header, rows)


def _mean(report: Report) -> str:
    return accuracy_text(report["mean_test_accuracy"], TEST_IMAGES)


def _seeds(report: Report) -> str:
    return ", ".join(str(run["seed"]) for run in report["runs"])


def _recipe_title(report: Report) -> str:
    trained = from_json(json.dumps(report["recipe"]))
    return next((preset.title for preset in RECIPES if preset.recipe == trained), "no preset")


def recipes(found: Reports) -> str:
    """The values of the recipes in the table of accuracies; a row for each value that is not zero everywhere."""
    tables = found.accuracy["tables"]
    flat = [{**report["recipe"], **report["recipe"]["augmentation"]} for report in tables.values()]
    keys = dict.fromkeys(key for recipe in flat for key in recipe)
    skipped = {"augmentation", "seed"}
    if not any(recipe["schedule"] in ("step", "plateau") for recipe in flat):
        skipped |= {"drop", "patience"}
    rows = [
        (f"`{key}`", *(recipe.get(key) or "0" for recipe in flat))
        for key in keys
        if key not in skipped and any(recipe.get(key) for recipe in flat)
    ]
    return _table(("", *(f"`{name}`" for name in tables)), rows)


def speed(found: Reports) -> str:
    """Batches of the exercise's network by this engine and by the usual loop."""
    report = found.speed
    rows = [
        ("Receptive", _recorded(report, "images_per_second")),
        ("the usual loop", _recorded(report, "notebook_images_per_second")),
        ("ratio", _recorded(report, "throughput_ratio")),
    ]
    return _table(("training", "images per second"), rows)


def networks(found: Reports) -> str:
    """Training speed of networks that users build, against two plain loops of torch."""
    report = found.speed
    rows = [
        (
            f"`{row['id']}`",
            f"`{row['notation']}`",
            f"{row['macs']:,}",
            *(f"{row[name]:,}" for name in ("ours", "notebook", "in_memory")),
            *(f"{row[name]:.2f}" for name in ("ours_over_notebook", "ours_over_in_memory")),
            percent(row["share_of_peak"], 0),
            _signed(row["estimate_off_percent"]),
        )
        for row in report.get("networks", ())
    ]
    header = (
        "id", "network", "MACs", "Receptive", "notebook", "in memory", "ratio to notebook", "ratio to in memory",
        "share of peak", "a step took",
    )  # fmt: skip
    return _table(header, rows)


def network_steps(found: Reports) -> str:
    """Where the time of a step goes, for the public networks with the lowest ratio."""
    steps = found.speed.get("slowest_steps", ())
    parts = ("step", "arithmetic_limit", "kernels", "around_the_kernels", "batch_loss_and_optimizer")
    rows = [(f"`{step['id']}`", *(f"{step[f'{part}_ms']:.1f} ms" for part in parts)) for step in steps]
    header = ("id", "step", "arithmetic limit", "kernels", "around the kernels", "batch, loss and optimizer")
    return _table(header, rows)


def followed(found: Reports) -> str:
    """The slowdown of a run by an open page that follows it."""
    names = {"closed": "none", "train": "Train", "inside": "Inspect", "draw": "Draw"}
    rows = []
    for key, name in names.items():
        slowdown = found.speed.get(f"{key}_slowdown")
        less = "" if key == "closed" else NOT_RECORDED if slowdown is None else percent(slowdown)
        rows.append((name, _recorded(found.speed, f"{key}_images_per_second"), less))
    return _table(("open page", "images per second", "slower by"), rows)


def responses(found: Reports) -> str:
    """Response times of the pages."""
    report = found.speed
    rows = [
        (
            "from a slider to the new table of layers",
            f"{_recorded(report, 'design_p95_ms', ' ms')} (median {_recorded(report, 'design_median_ms', ' ms')})",
            _recorded(report, "ui_slider_p95_ms", " ms"),
        ),
        (
            "from the end of a stroke to its prediction",
            _recorded(report, "draw_p95_ms", " ms"),
            _recorded(report, "ui_draw_p95_ms", " ms"),
        ),
        ("from Next to all feature maps of another image", _recorded(report, "feature_maps_p95_ms", " ms"), ""),
        (
            f"from Stop to “Stopped”, longest of {_recorded(report, 'stops')}",
            "",
            f"{_recorded(report, 'stop_max_ms', ' ms')} (median {_recorded(report, 'stop_median_ms', ' ms')})",
        ),
        (
            "parse and analyze a network of 30 layers, without a page",
            _recorded(report, "parse_and_analyse_30_layers_ms", " ms"),
            "",
        ),
        (
            "parse and analyze the largest public network, a ResNet-50",
            _recorded(report, "parse_and_analyse_resnet_50_ms", " ms"),
            "",
        ),
        (
            "read the networks in a notebook of 1,000 lines",
            _recorded(report, "import_notebook_of_1000_lines_ms", " ms"),
            "",
        ),
        (
            "find the possible edits of all layers of the network of 30, without a page",
            _recorded(report, "menus_30_layers_ms", " ms"),
            "",
        ),
    ]
    return _table(("from … to …", "nothing training", "while a run trains"), rows)


def first_pages(found: Reports) -> str:
    """How soon each page is ready, as the first one after a start, and the memory of the server after a tour."""
    seconds, memory = found.speed.get("cold_pages_seconds", {}), found.speed.get("resident_mb", {})
    pages = [name for name in seconds if " " not in name]
    rows = [(name.capitalize(), f"{seconds[name]:.1f} s", f"{seconds[f'{name} done']:.1f} s") for name in pages]
    rows.append(("memory after a tour and a run", f"{memory['rss']:,} MB" if memory else NOT_RECORDED, ""))
    return _table(("first page after a start", "main part", "complete"), rows)


def other_tabs(found: Reports) -> str:
    """The delay in one tab caused by a large network in another."""
    delays = found.speed.get("other_tab_delay_ms")
    if delays is None:
        return _table(("in another tab", "delay"), [("a large network", NOT_RECORDED)])
    rows = [
        (f"`{_shortened(network)}`" if network != "none" else "nothing", f"{ms} ms") for network, ms in delays.items()
    ]
    return _table(("in another tab", "delay"), rows)


def _shortened(network: str) -> str:
    """`8 8 8 8 10 A` -> `8 × 4, 10 A`: repeated layers in short form."""
    tokens = network.split()
    repeats = next((n for n, token in enumerate(tokens) if token != tokens[0]), len(tokens))
    return network if repeats < 5 else f"{tokens[0]} (× {repeats}) {' '.join(tokens[repeats:])}"


def evaluation(found: Reports) -> str:
    """Seconds for the 10,000 test images."""
    rows = [(f"`{name}`", f"{seconds} s") for name, seconds in found.speed["evaluation_seconds"].items()]
    return _table(("checkpoint", "time"), rows)


def estimates(found: Reports) -> str:
    """The error of the estimated time of a batch."""
    rows = [(f"`{network}`", _signed(off)) for network, off in found.speed["estimate_off_percent"].items()]
    return _table(("network", "a batch took"), rows)


def _signed(off: int) -> str:
    return f"{abs(off)} % {'less' if off < 0 else 'more'} than estimated" if off else "as estimated"


def drawings(found: Reports) -> str:
    """The accuracy of the shipped networks on drawings."""
    redrawn = next(iter(found.drawings.values()))["drawings"]
    ways = {
        "as MNIST was made": f"{redrawn:,} redrawn test digits",
        "the box in the middle": "the same, bounding box centered instead of center of mass",
        "the canvas shrunk": "the same, the whole canvas shrunk to 28×28",
    }
    rows: list[tuple[str, ...]] = [
        (what, *(accuracy_text(report["read_right"][way], redrawn) for report in found.drawings.values()))
        for way, what in ways.items()
    ]
    for kind, what in _STRANGERS.items():
        rows.append(
            (
                f"{_count(found, 'strangers', kind):,} {what}",
                *(_of_strangers(report, kind) for report in found.drawings.values()),
            )
        )
    return _table(("read right", *(f"`{name}`" for name in found.drawings)), rows)


_STRANGERS = {
    "pen characters": "digits from Spain (UJI)",
    "pen digits, lifts put back": "digits from Turkey (UCI), pen lifts restored",
    "pen digits, as they are": "the same, without the lifts",
}


def _of_strangers(report: Report, kind: str) -> str:
    share = report["strangers_read_right"].get(kind)
    return NOT_RECORDED if share is None else accuracy_text(share, report.get("strangers", COUNTS)[kind])


def _count(found: Reports, key: str, kind: str) -> int:
    # The files of some sets are optional: a report made without one has no count of it.
    count: int = next(iter(found.drawings.values())).get(key, COUNTS).get(kind, COUNTS[kind])
    return count


def certainty(found: Reports) -> str:
    """The shares of digits and other images for which the networks are confident."""
    networks = found.drawings.values()
    rows: list[tuple[str, ...]] = [
        ("redrawn test digits", *(percent(report["certain_of_drawings"]) for report in networks)),
    ]
    for kind, what in _STRANGERS.items():
        rows.append((what, *(_share(report["certain_of_strangers"], kind) for report in networks)))
    for kind in next(iter(networks))["certain_of_marks"]:
        rows.append(
            (
                f"{_count(found, 'marks', kind)} {kind}",
                *(
                    f"{_share(report['certain_of_marks'], kind)} "
                    f"({_share(report['certain_of_marks_by_probability_alone'], kind)})"
                    for report in networks
                ),
            )
        )
    return _table(("certain of", *(f"`{name}`" for name in found.drawings)), rows)


def _share(shares: Report, kind: str) -> str:
    return percent(shares[kind]) if kind in shares else NOT_RECORDED


def calibration(found: Reports) -> str:
    """Expected calibration error before and after the temperature."""
    rows = [
        (
            f"`{name}`",
            f"{report['temperature']:.2f}",
            percent(report["calibration_error_before"], 2),
            percent(report["calibration_error_after"], 2),
        )
        for name, report in found.drawings.items()
    ]
    return _table(("checkpoint", "temperature", "error before", "error after"), rows)


TABLES: dict[str, Callable[[Reports], str]] = {
    "highlights": highlights,
    "machines": machines,
    "accuracy": accuracy,
    "recipes": recipes,
    "speed": speed,
    "networks": networks,
    "network steps": network_steps,
    "followed": followed,
    "responses": responses,
    "first pages": first_pages,
    "other tabs": other_tabs,
    "evaluation": evaluation,
    "estimates": estimates,
    "drawings": drawings,
    "certainty": certainty,
    "calibration": calibration,
}


def main() -> None:
    found = reports()
    rewrite(lambda page: refreshed(page, found))


if __name__ == "__main__":
    main()
