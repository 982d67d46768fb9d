"""Every figure in the documentation is that of a report, and the reports agree with themselves."""

from __future__ import annotations

import copy
import re
import statistics

import pytest

from benchmarks.accuracy import soonest
from docs.benchmarks import NOT_RECORDED, TABLES, Reports, machines, other_tabs, refreshed, reports
from docs.pages import ROOT, pages
from lib.evaluation.proportion import wilson_interval

PAGES = [path.relative_to(ROOT).as_posix() for path in pages()]
STALE = "run `make docs`"
# Its figures are of networks and recipes that were not kept, and have no report.
NOTEBOOK = "docs/experiments.md"
# A limit of the exercise, not a measurement.
LIMIT = "99.4 %"


@pytest.fixture
def found() -> Reports:
    return reports()


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_tables_have_the_figures_of_the_reports(page: str, found: Reports) -> None:
    assert refreshed(text(page), found) == text(page), STALE


def test_each_table_is_shown() -> None:
    shown = {name for page in PAGES for name in re.findall(r"<!-- table: (.*?) -->", text(page))}
    assert shown == set(TABLES)


@pytest.mark.parametrize("page", sorted(set(PAGES) - {NOTEBOOK, "CHANGELOG.md"}))
def test_no_page_has_an_accuracy_or_a_time_of_its_own(page: str) -> None:
    prose = re.sub(
        r"<!-- table: .*?<!-- end of table -->|^```.*?^```$|^    [^\n]*$",
        "",
        text(page),
        flags=re.DOTALL | re.MULTILINE,
    )
    measured = re.findall(r"\d\d\.\d+ %|\d ms\b|[\d,]+ images (?:a|per) second", prose)
    assert set(measured) <= {LIMIT}


@pytest.mark.parametrize("name", reports().accuracy["tables"])
def test_a_mean_and_its_interval_are_those_of_the_runs(name: str, found: Reports) -> None:
    report = found.accuracy["tables"][name]
    mean = report["mean_test_accuracy"]
    assert statistics.fmean(run["test_accuracy"] for run in report["runs"]) == pytest.approx(mean, abs=1e-6)
    assert report["interval95"] == pytest.approx(wilson_interval(mean, 10_000), abs=1e-6)


def test_the_target_is_reached_by_the_fewest_epochs_whose_mean_reaches_it() -> None:
    network = "4 4 8 M 12 12 16 M 20v 10v A"

    def table(epochs: int, mean: float, seconds: float, network: str = network) -> dict[str, object]:
        return {"network": network, "epochs": epochs, "mean_test_accuracy": mean, "median_seconds": seconds}

    long, short, early = table(5, 0.995, 40.0), table(3, 0.994, 50.0), table(2, 0.99399, 20.0)
    assert soonest([long, early]) == {"epochs_to_99_4": 5, "seconds_to_99_4": 40.0}
    assert soonest([long, early, short]) == {"epochs_to_99_4": 3, "seconds_to_99_4": 50.0}
    assert soonest([early, table(1, 0.999, 9.0, "8 M 10 A")]) == {"epochs_to_99_4": None, "seconds_to_99_4": None}


def test_the_reports_say_how_soon_their_tables_reach_the_target(found: Reports) -> None:
    expected = soonest(found.accuracy["tables"].values())
    for report in (found.accuracy, found.speed):
        assert {key: report[key] for key in expected} == expected


def test_the_speed_report_holds_the_same_accuracies(found: Reports) -> None:
    assert found.speed["tables"] == found.accuracy["tables"]


def test_the_experiments_quote_the_shipped_figures(found: Reports) -> None:
    """The figures of what was tried and not kept have no report."""
    drawn = found.drawings["drawings-39706"]["strangers_read_right"]
    said = text(NOTEBOOK)
    assert f"Thorough, {100 * found.accuracy['tables']['assignment-9274']['mean_test_accuracy']:.3f} %" in said
    three = found.accuracy["tables"]["three-epochs-9274"]
    assert f"Three epochs, {100 * three['mean_test_accuracy']:.3f} % over seeds 0 to 4" in said
    deviation = 100 * statistics.stdev(run["test_accuracy"] for run in three["runs"])
    assert f"deviation of {deviation:.3f} points" in re.sub(r"\s+", " ", said)
    assert f"39,706 (shipped) | 0.8 | {100 * drawn['pen digits, lifts put back']:.1f} %" in said
    assert f"Before that {100 * drawn['pen characters']:.2f} % of their digits" in said


def test_what_a_report_lacks_is_not_recorded(found: Reports) -> None:
    bare = copy.deepcopy(found)
    speed = {key: value for key, value in bare.speed.items() if key not in ("environment", "other_tab_delay_ms")}
    for report in (*bare.accuracy["tables"].values(), *bare.drawings.values()):
        report.pop("environment", None)
    bare = Reports(bare.accuracy, bare.drawings, speed)
    assert machines(bare).count(NOT_RECORDED) >= 17
    assert NOT_RECORDED in other_tabs(bare)


def test_a_set_of_drawings_that_was_not_there_is_not_recorded(found: Reports) -> None:
    bare = copy.deepcopy(found)
    for report in bare.drawings.values():
        report["strangers"], report["strangers_read_right"], report["certain_of_strangers"] = {}, {}, {}
    for table in ("drawings", "certainty"):
        assert TABLES[table](bare).count(NOT_RECORDED) >= 6


def test_what_a_report_has_is_shown(found: Reports) -> None:
    known = {"cpu": "Zen 9", "cores": 3, "system": "Linux", "python": "3.12.1", "torch": "2.99", "date": "2027-01-01"}
    large = "8 " * 30 + "10 A"
    speed = {**found.speed, "environment": known, "other_tab_delay_ms": {"none": 5, large: 81}}
    made = Reports(found.accuracy, found.drawings, speed)
    assert "| all else | `make bench` | Zen 9 | 3 | Linux | 3.12.1 | 2.99 | 2027-01-01 |" in machines(made)
    assert "| nothing | 5 ms |\n| `8 (× 30) 10 A` | 81 ms |" in other_tabs(made)
