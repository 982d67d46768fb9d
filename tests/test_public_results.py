"""The public results: each row against the analysis of its network, and what a damaged file gives."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from lib.data import public_results
from lib.data.dataset import DatasetError
from lib.data.public_results import COLUMNS, FILE, PublicResult, notations_at
from lib.design.analysis import analyze
from lib.design.layers import FullyConnected
from lib.design.notation import notation, parse
from tests.irregular_files import put_all
from tools import ROOT

README = (ROOT / "data" / "README.md").read_text(encoding="utf-8").partition("# Public results\n")[2]
HEADER = ",".join(COLUMNS)
RESULTS = public_results.load()


def test_each_notation_is_canonical_and_has_the_parameters_and_layers_of_its_row() -> None:
    written = [result for result in RESULTS if result.notation]
    assert len(written) >= 0.97 * len(RESULTS)
    for result in written:
        architecture = parse(result.notation)
        assert notation(architecture) == result.notation
        assert analyze(architecture).num_params == result.params, result.notation
        dense = sum(isinstance(layer, FullyConnected) for layer in architecture.layers)
        assert dense == result.fully_connected, result.notation


def test_the_results_are_plausible_sorted_and_different() -> None:
    assert len(set(RESULTS)) == len(RESULTS)
    assert sorted(RESULTS, key=lambda result: (result.params, result.accuracy)) == list(RESULTS)
    for result in RESULTS:
        assert 1000 < result.params < 10**8
        assert 0 < result.accuracy < 99.9
        assert result.epochs is None or 1 <= result.epochs <= 500
        # The best of all epochs is at least the last.
        if result.best_accuracy is not None and result.final_accuracy is not None:
            assert result.final_accuracy <= result.best_accuracy


def test_the_readme_describes_each_column_and_counts_the_rows() -> None:
    assert re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE) == list(COLUMNS)
    assert len(set(COLUMNS)) == len(COLUMNS)
    assert f"each of {len(RESULTS)} public networks" in README


def test_the_accuracy_is_the_final_one_or_else_the_best() -> None:
    result = PublicResult(9274, 19, 99.5, 99.4, 0, "4 M 10 A")
    assert result.accuracy == 99.4
    assert replace(result, final_accuracy=None).accuracy == 99.5
    assert replace(result, final_accuracy=0.0).accuracy == 0.0
    assert [replace(result, epochs=epochs).epochs_text for epochs in (None, 1, 20)] == ["", "1 epoch", "20 epochs"]


def test_different_networks_at_a_point_are_listed_once_each() -> None:
    first, second = (PublicResult(9274, 19, 99.5, 99.4, 0, text) for text in ("8 M 10 A", "4 M 10 A"))
    results = (first, replace(first, epochs=18), replace(first, notation=""), second, replace(second, params=9275))
    assert notations_at(results, 9274, 99.4) == ["8 M 10 A", "4 M 10 A"]
    assert notations_at(results, 9274, 99.5) == []


def test_empty_fields_are_unknown_and_the_file_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text(f"{HEADER}\n9274,,99.5,,0,\n", encoding="utf-8")
    assert public_results.load(path) == (PublicResult(9274, None, 99.5, None, 0, ""),)
    path.unlink()
    assert len(public_results.load(path)) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        f"{HEADER}\n".encode(),
        b"params,epochs\n9274,19\n",
        f"{HEADER}\n9274,19,99.5,99.4,0\n".encode(),
        f"{HEADER}\n9274,19,,,0,4 M 10 A\n".encode(),
        f"{HEADER}\n9274,19,99.5,100.1,0,4 M 10 A\n".encode(),
        f"{HEADER}\n9274,19,nan,99.4,0,4 M 10 A\n".encode(),
        f"{HEADER}\n-1,19,99.5,99.4,0,4 M 10 A\n".encode(),
        f"{HEADER}\n{'9' * 5000},19,99.5,99.4,0,4 M 10 A\n".encode(),
        f'{HEADER}\n9274,19,99.5,99.4,0,"4 M 10 A\n'.encode(),
        b"\xff\xfe\x00",
        FILE.read_bytes()[:-40] + b"\x00" * 40,
    ],
    ids=lambda content: repr(content[-24:]),
)
def test_a_damaged_file_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "public-results.csv"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"^data/public-results\.csv is damaged\. Restore it from the project\.$"):
        public_results.load(path)


def test_what_is_no_file_is_a_sentence(tmp_path: Path) -> None:
    for name in put_all(tmp_path, ".csv"):
        with pytest.raises(DatasetError, match=r"cannot be read \(.+\)\. Restore it from the project\.$"):
            public_results.load(tmp_path / name)
