"""`python -m lib`, as a person types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from lib.analysis import analyse
from lib.architecture import PRESETS, parse

ROOT = Path(__file__).parent.parent


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "utf8", "-m", "lib", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False)


def test_the_table_is_that_of_the_page() -> None:
    done = run("describe", PRESETS[0].text)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert len(lines) == 2 + 11 + 1
    ninth = "9 · 3×3 convolution, no padding 20 × 5 × 5 2,940 31.7 % 72,000 1,500 30 4 5.5"
    assert " ".join(lines[10].split()) == ninth
    assert lines[-1].split() == ["Total", "9,274", "100.0", "%", "1,217,160", "65,104"]
    assert len({len(line) for line in lines[:-1]}) == 1


def test_json_holds_every_module_and_adds_up() -> None:
    done = run("describe", PRESETS[1].text, "--modules", "--json")
    description = json.loads(done.stdout)
    assert description["network"] == PRESETS[1].text
    assert len(description["rows"]) == 25
    assert sum(row["num_params"] for row in description["rows"]) == description["num_params"] == 9274
    assert description["macs"] == analyse(parse(PRESETS[1].text)).macs
    assert description["rows"][-1]["receptive_field"] == 46


def test_a_bad_network_is_one_sentence_on_the_error_stream() -> None:
    done = run("describe", "4 oops")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("Token 2, “oops”, is not a layer.")
    assert len(done.stderr.splitlines()) == 1


def test_it_answers_without_torch_or_streamlit() -> None:
    code = (
        "import sys; from lib.__main__ import main; main(['describe', '4 10 A', '--json']); "
        "print(sorted({'torch', 'streamlit', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
