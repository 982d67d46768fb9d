"""The figures that README.md and the benchmarks' texts give are those of the reports."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest

from lib.proportion import accuracy_text, wilson_interval

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
ROWS = {row.split(" | ")[0].removeprefix("| "): row.split(" | ")[1] for row in re.findall(r"^\| .* \|$", README, re.M)}


def report(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))
    return found


ACCURACY, SPEED, DRAWINGS = report("accuracy"), report("report"), report("drawings")
TABLES, DRAWN, ASSIGNMENT = ACCURACY["tables"], DRAWINGS["drawings-39706"], DRAWINGS["assignment-9274"]
CHARACTERS, AS_THEY_ARE, LIFTED = "pen characters", "pen digits, as they are", "pen digits, lifts put back"


def mean(table: str) -> str:
    found = TABLES[table]
    runs = [run["test_accuracy"] for run in found["runs"]]
    assert statistics.fmean(runs) == pytest.approx(found["mean_test_accuracy"], abs=1e-6)
    assert found["interval95"] == pytest.approx(wilson_interval(found["mean_test_accuracy"], 10_000), abs=1e-6)
    each = ", ".join(f"{100 * accuracy:.2f}" for accuracy in runs)
    return f"{each} %: mean {accuracy_text(found['mean_test_accuracy'], 10_000)}"


def certain(network: dict[str, Any]) -> str:
    shares = [share for name, share in network["certain_of_marks"].items() if name.startswith("scribbles")]
    marks = [f"{100 * share:.0f}" for share in shares]
    digits, letters = network["certain_of_strangers"][CHARACTERS], network["certain_of_marks"]["letters"]
    return f"{100 * digits:.1f} %, {100 * letters:.0f} %; {', '.join(marks)} %"


def digits_of_turkey(network: dict[str, Any]) -> str:
    return ", ".join(f"{100 * network['strangers_read_right'][kind]:.1f} %" for kind in (LIFTED, AS_THEY_ARE))


def digits_of_spain(network: dict[str, Any]) -> str:
    return accuracy_text(network["strangers_read_right"][CHARACTERS], 1_180)


# What a row of the README begins with, and what stands beside it.
FIGURES = {
    "Quick recipe, 5 epochs: the assignment's 9,274": mean("quick-9274"),
    "seconds until its final epoch": f"{ACCURACY['seconds_to_99_4']:.0f} s",
    "Thorough recipe, 19 epochs": mean("assignment-9274"),
    "Thorough, small network, 19 epochs: `4 6 8 M 8 8 8 8 M 8v 10v A`, 4,468": mean("small-4468"),
    "training, images a second": (
        f"{SPEED['images_per_second']:,} and {SPEED['notebook_images_per_second']:,}, ratio {SPEED['throughput_ratio']}"
    ),
    "images a second with its Train page open": (
        f"{SPEED['train_images_per_second']:,} and {SPEED['closed_images_per_second']:,}: "
        f"{100 * SPEED['train_slowdown']:.0f} % less"
    ),
    "while it trains: from a slider": f"{SPEED['ui_slider_p95_ms']} ms, {SPEED['ui_draw_p95_ms']} ms",
    "from pen-up to the end": f"{SPEED['draw_p95_ms']} ms",
    "from the press of Next": f"{SPEED['feature_maps_p95_ms']} ms",
    "to measure a network": (
        f"{min(SPEED['evaluation_seconds'].values())} to {max(SPEED['evaluation_seconds'].values())} s"
    ),
    "`drawings-39706`, seed 0, 15 epochs": accuracy_text(TABLES["drawings-39706"]["mean_test_accuracy"], 10_000),
    "the same: 1,180 digits": f"reads {'; '.join(digits_of_spain(network) for network in (DRAWN, ASSIGNMENT))}",
    "the same: 3,498 digits": f"reads {'; '.join(digits_of_turkey(network) for network in (DRAWN, ASSIGNMENT))}",
    "the same: shapes of 2,000": (
        f"reads {accuracy_text(DRAWN['read_right']['as MNIST was made'], 2_000)} "
        f"(shrunk {100 * DRAWN['read_right']['the canvas shrunk']:.1f} %, "
        f"box in the middle {100 * DRAWN['read_right']['the box in the middle']:.1f} %)"
    ),
    "the same: is certain of the digits in Spain": certain(DRAWN),
    "the same for `assignment-9274`": certain(ASSIGNMENT),
    "the same marks for `assignment-9274`": "{:.0f} %; {:.0f}, {:.0f}, {:.0f} %".format(
        *(100 * share for share in ASSIGNMENT["certain_of_marks_by_probability_alone"].values())
    ),
    "calibration error of `drawings-39706`": (
        f"{100 * DRAWN['calibration_error_before']:.2f} %, {100 * DRAWN['calibration_error_after']:.2f} %"
    ),
    "from the press of Stop": f"{SPEED['stop_max_ms']} ms",
    "from a slider to the new table in the browser": f"{SPEED['design_p95_ms']} ms",
    "a network of 30 layers": f"{SPEED['parse_and_analyse_30_layers_ms']} ms",
    "how far the estimated time": (
        f"−{-min(SPEED['estimate_off_percent'].values())} % to +{max(SPEED['estimate_off_percent'].values())} %"
    ),
}  # fmt: skip


@pytest.mark.parametrize("start", FIGURES)
def test_a_figure_of_the_readme_is_that_of_its_report(start: str) -> None:
    (figure,) = (value for name, value in ROWS.items() if name.startswith(start))
    assert figure == FIGURES[start]


def test_every_row_with_a_figure_has_its_report() -> None:
    table = README.partition("| figure | value | printed by |")[2].partition("\n\n")[0]
    names = [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines() if " | " in line]
    assert len(names) == len(FIGURES) > 20
    assert all(any(name.startswith(start) for start in FIGURES) for name in names)


def test_the_speed_report_holds_the_same_accuracies() -> None:
    assert SPEED["tables"] == TABLES


def test_what_the_benchmarks_say_of_themselves_is_in_the_reports() -> None:
    """The figures of networks that were tried and not kept have no report."""
    said = (ROOT / "benchmarks" / "accuracy.py").read_text(encoding="utf-8")
    assert f"Thorough, {100 * TABLES['assignment-9274']['mean_test_accuracy']:.3f} %" in said
    said = (ROOT / "benchmarks" / "drawings.py").read_text(encoding="utf-8")
    assert f"shipped, {100 * DRAWN['strangers_read_right'][LIFTED]:.1f} %" in said
    assert f"before, {100 * DRAWN['strangers_read_right'][CHARACTERS]:.2f} %" in said
