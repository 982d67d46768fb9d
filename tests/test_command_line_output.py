"""The output of the command line: no control characters, and no traceback if it is closed or full."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from lib.__main__ import main
from lib.data.dataset import Dataset
from lib.design.notation import parse
from lib.design.recipe import RECIPES
from lib.nn.network import build
from lib.runs import run_store
from lib.storage import checkpoints
from lib.storage.checkpoints import SUFFIX, Checkpoint, Summary
from tests.photographs import photo
from tests.test_command_line import COMMAND, ENVIRONMENT, SECONDS, SMALL
from tools import ROOT

pytestmark = pytest.mark.slow

# Sets the title of a terminal's window, reverses the rest of the line, starts a color.
CONTROLS = "\x1b]0;owned\x07 \u202e \x9b31m"
SHOWN = "[U+001B]]0;owned[U+0007] [U+202E] [U+009B]31m"
BIG = " ".join(["64"] * 60) + " 10 A"
FULL = "The output could not be written (No space left on device).\n"
CLOSED = "Standard output is closed: redirect it to a file, or to /dev/null.\n"
needs_a_full_disk = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux alone has it")


def redirected(redirection: str, *arguments: str) -> tuple[int, str, str]:
    """Exit status, output and error stream of a command that a shell runs with a redirection."""
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *COMMAND, *arguments],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def piped(*arguments: str) -> tuple[int, str]:
    """Exit status and error stream of a command whose output is a pipe without a reader."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*COMMAND, *arguments],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdout=writing,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            timeout=SECONDS,
            check=False,
        )
    finally:
        os.close(writing)
    return done.returncode, done.stderr


@needs_a_full_disk
@pytest.mark.parametrize(
    "arguments",
    [("describe", "2 10 A"), ("describe", BIG, "--modules", "--json"), ("--help",), ("train", "--help")],
    ids=["table", "json", "help", "help of train"],
)
def test_a_closed_or_full_output_is_no_traceback(arguments: tuple[str, ...]) -> None:
    assert piped(*arguments) == (141, "")
    assert redirected("> /dev/full", *arguments) == (1, "", FULL)
    assert redirected(">&-", *arguments) == (1, "", CLOSED)
    # There is no stream left for the message.
    assert redirected("<&- >&- 2>&-", *arguments) == (1, "", "")
    assert redirected("> /dev/full 2>&1", *arguments) == (1, "", "")


@needs_a_full_disk
@pytest.mark.parametrize("arguments", [("describe", "4 oops"), ("describe",), ("oops",)])
def test_an_error_message_that_cannot_be_written_is_dropped(arguments: tuple[str, ...]) -> None:
    assert redirected("2>&-", *arguments) == (2, "", "")
    assert redirected("2> /dev/full", *arguments) == (2, "", "")


@needs_a_full_disk
def test_no_file_gets_the_descriptor_of_a_closed_stream() -> None:
    """Otherwise the output of a library would go into that file."""
    code = (
        "import os; from lib.__main__ import main; main(['describe', '2 10 A']); "
        "print(os.open('README.md', os.O_RDONLY) > 2)"
    )
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&- 2>&-', "sh", COMMAND[0], "-c", code], cwd=ROOT, capture_output=True, check=True
    )
    assert done.stdout.splitlines()[-1] == b"True"


@needs_a_full_disk
def test_a_training_is_stopped_and_saved_if_its_output_is_full(tmp_path: Path) -> None:
    status, _, errors = redirected("> /dev/full", "train", *SMALL, "--json", "--runs-dir", str(tmp_path))
    assert (status, errors) == (1, f"The training was stopped. {FULL}")
    [path] = tmp_path.glob(f"*{SUFFIX}")
    assert run_store.load(path).status == "stopped"


@needs_a_full_disk
def test_a_prediction_has_no_traceback_if_its_output_is_full(tmp_path: Path, mnist: Dataset) -> None:
    # So small that calibrating it is quick.
    architecture, path = parse("2 10 A"), tmp_path / f"small{SUFFIX}"
    summary = Summary("Small", architecture, RECIPES[0].recipe, 0, None, "2026-11-22T00:00:00+00:00")
    checkpoints.save(Checkpoint(summary, build(architecture).state_dict()), path)
    digit = tmp_path / "digit.png"
    digit.write_bytes(photo(mnist.test_images[0], "paper", 0))
    status, output, errors = redirected(
        "> /dev/full", "predict", "--checkpoint", str(path), f"{tmp_path}/{CONTROLS}", str(digit)
    )
    assert (status, output) == (1, "")
    assert errors.startswith(f"{tmp_path}/{SHOWN}: It cannot be opened")
    assert errors.endswith(f"check its name.\n{FULL}")


def test_no_control_character_reaches_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a network, a name, a recipe, an option, and the names of files and folders; for a photo see above."""
    folder = tmp_path / CONTROLS
    folder.mkdir()
    (folder / f"{CONTROLS}{SUFFIX}").write_text("no run")
    recipe = json.dumps({CONTROLS: 1})
    cases = [
        ["describe", f"4 {CONTROLS}"],
        ["train", "2 10 A", "--recipe", CONTROLS],
        ["train", "2 10 A", "--recipe", recipe],
        ["train", "2 10 A", "--recipe", f"@{folder}/none"],
        ["train", "--resume", CONTROLS],
        ["train", "--resume", str(folder / f"{CONTROLS}{SUFFIX}")],
        ["train", "--resume", "run-1", "--runs-dir", str(folder)],
        ["predict", str(folder / "none.png"), "--checkpoint", CONTROLS],
    ]
    for arguments in cases:
        assert main(arguments) in (1, 2)
        printed = "".join(capsys.readouterr())
        assert printed.replace("\n", "").isprintable()
        assert "owned" in printed
    with pytest.raises(SystemExit, match="2"):
        main(["describe", "2 10 A", f"--{CONTROLS}"])
    assert SHOWN in capsys.readouterr().err


@pytest.mark.parametrize("name", [CONTROLS, "\u200b\u200b", "a\u202eb", "\u0301", "n" * 61])
def test_a_run_name_with_invisible_characters_is_refused_before_the_training(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *SMALL, "--runs-dir", str(tmp_path), "--name", name]) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith(("The name ", "A name has at most 60 characters"))
    assert len(errors.splitlines()) == 1
    assert list(tmp_path.glob(f"*{SUFFIX}")) == []
