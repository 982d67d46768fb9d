"""`python -m lib import`: real files, and a process of its own where the status and the streams matter."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lib.__main__ import main
from lib.design.analysis import analyze
from lib.design.notation import parse
from lib.export.onnx_file import onnx_bytes
from lib.importing.networks import ImportedNetwork, import_networks
from lib.nn.network import build
from tools import ROOT

SOURCE = """import torch.nn as nn
import torch.nn.functional as F


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, bias=False)
        self.drop = nn.Dropout(0.05)
        self.conv2 = nn.Conv2d(8, 10, 3)
        self.gap = nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        x = self.drop(F.relu(self.conv1(x)))
        return F.log_softmax(self.gap(self.conv2(x)).view(-1, 10), dim=1)
"""
TOO_WIDE = SOURCE.replace("8", "4096").replace("Net", "Wide")
SOFTMAX = "The softmax at the end is left out: the loss computes it from the logits."


def run(*arguments: str, given: bytes = b"", folder: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "lib", "import", *arguments],
        input=given,
        capture_output=True,
        timeout=60,
        cwd=folder or ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        check=False,
    )


def objects(output: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.decode("ascii").splitlines()]


def only(name: str, data: bytes) -> ImportedNetwork:
    [found] = import_networks(name, data)
    return found


def test_one_json_object_a_line_for_each_network(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(SOURCE + TOO_WIDE.partition("\n\n\n")[2], encoding="utf-8")
    (tmp_path / "net.ipynb").write_text(json.dumps({"cells": [{"cell_type": "code", "source": SOURCE}]}))
    architecture = parse("8.gbn2 add( 8x D5c ) 10 A")
    (tmp_path / "net.onnx").write_bytes(onnx_bytes(architecture, build(architecture).state_dict()))
    done = run("net.py", "net.ipynb", "net.onnx", "-", "--json", given=SOURCE.encode(), folder=tmp_path)
    assert done.stderr == b""
    assert done.returncode == 0
    found = objects(done.stdout)
    assert [row["file"] for row in found] == ["net.py", "net.py", "net.ipynb", "net.onnx", "-"]
    assert [row["name"] for row in found] == ["Net", "Wide", "Net", "receptive", "Net"]
    text = "8vnu D5 10v A"
    assert [row["notation"] for row in found] == [text, None, text, "8.gbn2 add( 8x D5c ) 10 A", text]
    analysis = analyze(parse(text))
    assert found[0]["num_params"] == analysis.num_params
    assert found[0]["notes"] == [SOFTMAX]
    assert found[0]["problem"] is None
    assert [(row["kind"], tuple(row["output_shape"]), row["num_params"]) for row in found[0]["layers"]] == [
        (row.kind, row.output_shape, row.num_params) for row in analysis.rows
    ]
    described = subprocess.run(
        [sys.executable, "-m", "lib", "describe", text, "--modules", "--json"],
        capture_output=True,
        check=True,
        cwd=ROOT,
    )
    assert found[0]["layers"] == json.loads(described.stdout)["rows"]
    assert found[1]["problem"] == (
        "Line 19, `self.conv1 = nn.Conv2d(1, 4096, 3, bias=False)`: out_channels=4096 is out of range. Choose a number "
        "from 1 to 2,048."
    )
    assert (found[1]["layers"], found[1]["num_params"]) == ([], None)


def test_the_status_is_1_if_a_file_has_no_network_and_the_rest_is_read(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(SOURCE)
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "damaged.onnx").write_bytes(b"\xff" * 100)
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    (tmp_path / "wide.py").write_text(TOO_WIDE)
    bad = ["folder", "nowhere.py", "empty.py", "damaged.onnx", "image.png", "wide.py"]
    done = run(*bad[:3], "net.py", *bad[3:], "--json", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr == b""
    found = objects(done.stdout)
    assert [row["file"] for row in found] == [*bad[:3], "net.py", *bad[3:]]
    assert [row["file"] for row in found if row["problem"] is None] == ["net.py"]
    assert all(row["problem"].endswith(".") for row in found if row["problem"])


def test_the_text_of_a_single_network_has_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "net.py"
    path.write_text(SOURCE)
    assert main(["import", str(path)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{path}: Net\n  8vnu D5 10v A\n  802 parameters\n  Note: {SOFTMAX}\n\nLayer ")
    assert main(["import", str(path), str(path)]) == 0
    assert "Layer " not in capsys.readouterr().out
    assert main(["import", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert (
        printed == f"{tmp_path}\n  Problem: It cannot be opened (it is a folder, not a regular file). Check its name.\n"
    )


@pytest.mark.parametrize(
    "statement", ["import lib.importing.networks", "from lib.__main__ import main; main(['import', '-'])"]
)
def test_neither_torch_nor_numpy_is_imported(statement: str) -> None:
    code = f"import sys; {statement}; print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code], input=SOURCE.encode(), capture_output=True, check=True, cwd=ROOT
    )
    loaded = set(done.stderr.decode().split())
    assert "lib.importing.networks" in loaded
    assert not loaded & {"torch", "numpy", "onnx"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_encodings(encoding: str) -> None:
    found = only("net.py", f"# Größe\n{SOURCE}".encode(encoding))
    assert found.problem is None
    assert found.num_params == 802


@pytest.mark.parametrize("name", ["", "net.py", "NET.PY", "folder.v2/net", "answer.md", "pasted.txt"])
def test_source_by_any_name(name: str) -> None:
    assert only(name, SOURCE.encode()).name == "Net"


def test_a_notebook_that_is_pasted() -> None:
    notebook = json.dumps({"cells": [{"cell_type": "code", "source": SOURCE}]}).encode()
    assert only("", notebook).name == "Net"
    assert only("net.ipynb", notebook).architecture == parse("8vnu D5 10v A")


def test_networks_with_a_problem_name_their_line() -> None:
    problem = only("", TOO_WIDE.encode()).problem
    assert problem is not None
    assert problem.startswith("Line 8, `self.conv1 = nn.Conv2d(1, 4096, 3, bias=False)`: out_channels=4096")


def test_the_modules_stand_beside_the_rows() -> None:
    found = only("net.py", SOURCE.encode())
    assert found.architecture is not None
    rows = analyze(found.architecture).rows
    assert [node.kind for node in found.nodes] == [row.kind for row in rows]
    assert [node.line for node in found.nodes] == [8, 14, 9, 10, 11]


BAD: list[tuple[str, str, bytes]] = [
    ("no text", "net.py", b" \n"),
    ("prose", "", b"The network has two convolutions and a pool."),
    ("another kind of file", "net.pth", b"PK\x03\x04"),
    ("10 MB of source", "net.py", b"x = 1\n" * 1_700_000),
    ("10 MB of source without a line break", "net.py", b"[" * 10_000_000),
    ("ten thousand brackets", "net.py", b"(" * 10_000 + b")" * 10_000),
    ("a syntax error", "net.py", b"class Net(nn.Module:\n    def"),
    ("Python 2", "net.py", b"print 'hello'\nexec 'import os'"),
    ("null bytes", "net.py", b"import torch\0"),
    ("a notebook that is no JSON", "net.ipynb", b"{not json"),
    ("a notebook of nested lists", "net.ipynb", b"[" * 100_000),
    ("a notebook without cells", "net.ipynb", b"{}"),
    ("a notebook with cells of the wrong type", "net.ipynb", b'{"cells": [1, {"cell_type": "code", "source": 5}]}'),
    ("100 MB that are called a notebook", "net.ipynb", b"{" * 30_000_000),
    ("import", "net.py", b"__import__('os').system('touch made')"),
    ("system", "net.py", b"import os\nos.system('touch made')\nnet = eval(\"open('made', 'w')\")"),
    (
        "a loop without an end",
        "net.py",
        SOURCE.replace("self.drop = nn.Dropout(0.05)", "for i in range(10**9): open('made', 'w')").encode(),
    ),
    ("recursion", "net.py", SOURCE.replace("self.conv1(x)", "self.forward(x)").encode()),
    ("nothing but a model of another library", "net.py", b"import keras\nmodel = keras.Sequential()"),
]


@pytest.mark.parametrize(("name", "data"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_input_gives_a_sentence_within_two_seconds(
    name: str, data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    begin = time.perf_counter()
    networks = import_networks(name, data)
    assert time.perf_counter() - begin < 2
    for network in networks:
        assert network.architecture is None
        assert network.problem is not None
        assert network.problem.endswith(".")
    assert networks
    assert not list(tmp_path.iterdir())


def test_control_characters_are_shown_as_codes(tmp_path: Path) -> None:
    path = tmp_path / "net\x1b[31m.py"
    path.write_bytes(b"\x1b[31m = nn.Sequential(")
    done = run(path.name, folder=tmp_path)
    assert done.returncode == 1
    assert b"\x1b" not in done.stdout
    assert b"Problem: " in done.stdout
