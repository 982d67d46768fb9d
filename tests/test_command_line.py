"""`python -m lib`, as a person types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lib.__main__ import main
from lib.cli.train import read_recipe
from lib.data.dataset import Dataset
from lib.design.analysis import analyze
from lib.design.notation import parse
from lib.design.presets import PRESETS
from lib.design.recipe import RECIPES, Recipe, json_values
from lib.evaluation.proportion import accuracy_text
from lib.runs import run_store
from lib.runs.run_record import RunRecord
from lib.storage import checkpoints
from lib.storage.checkpoints import SUFFIX
from tests.measure import accuracy_on
from tests.photographs import photo
from tools import ROOT

pytestmark = pytest.mark.slow


# Python would flush by itself where this is set.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
COMMAND = [sys.executable, "-X", "utf8", "-m", "lib"]
SMALL = ("2 10 A", "--recipe", '{"batch_size": 1000}')
SECONDS = 120
needs_signals = pytest.mark.skipif(os.name == "nt", reason="Windows has other signals")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False
    )


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str], calibrated_once: None) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """As `run`, in this process, which has imported torch already: status, output and error stream."""
    taken = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def answer(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        return status, *capsys.readouterr()

    yield answer
    for number, handler in taken.items():
        signal.signal(number, handler)


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
    assert description["macs"] == analyze(parse(PRESETS[1].text)).macs
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
        "main(['train', '4 oops']); main(['train', '4 10 A', '--recipe', 'oops']); "
        "print(sorted({'torch', 'streamlit', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


# train


class Training:
    """A training in a process of its own, and the events that it has printed so far."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, "train", *arguments, "--json"],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        self._too_late = threading.Timer(SECONDS, self.process.kill)
        self._too_late.daemon = True
        self._too_late.start()
        self.events: list[dict[str, Any]] = []
        self.errors = ""

    def read_until(self, step: int) -> None:
        """Read events up to that of this step."""
        assert self.process.stdout
        while not self.events or self.events[-1]["step"] < step:
            self.events.append(json.loads(self.process.stdout.readline()))

    def end(self) -> int:
        """Read the rest; returns the exit status."""
        # Not communicate(): it would leave out what read_until has in its buffer.
        assert self.process.stdout
        assert self.process.stderr
        if not self.process.stdout.closed:
            self.events += map(json.loads, self.process.stdout)
        self.errors = self.process.stderr.read()
        status = self.process.wait()
        self._too_late.cancel()
        return status

    def named(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == name]


def only_run(folder: Path) -> RunRecord:
    (path,) = folder.glob(f"*{SUFFIX}")
    return run_store.load(path)


def without_times(epochs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in epoch.items() if name not in ("seconds", "images_per_second")}
        for epoch in epochs
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Training, RunRecord]:
    """A training of three epochs without interruption."""
    folder = tmp_path_factory.mktemp("runs")
    training = Training(*SMALL, "--seed", "7", "--epochs", "3", "--runs-dir", str(folder), "--name", "Mine  alone")
    assert training.end() == 0, training.errors
    return training, only_run(folder)


def test_every_step_and_every_epoch_is_an_event(whole: tuple[Training, RunRecord]) -> None:
    training, record = whole
    steps, epochs = training.named("step"), training.named("epoch")
    assert training.errors == ""
    assert [step["step"] for step in steps] == list(range(1, 181))
    assert [step["epoch"] for step in steps] == [1] * 60 + [2] * 60 + [3] * 60
    assert [step["train_loss"] for step in steps] == record.history.curves().train_loss.tolist()
    assert [step["learning_rate"] for step in steps] == record.history.curves().learning_rate.tolist()
    assert [{**epoch, "event": None} for epoch in epochs] == [
        {**values, "event": None} for values in record.history.epoch_values()
    ]
    order = [(event["event"], event["step"]) for event in training.events]
    assert order[0] == ("start", 0)
    assert order.index(("epoch", 60)) == order.index(("step", 60)) + 1
    assert order[-2:] == [("epoch", 180), ("end", 180)]


def test_the_run_is_named_and_its_recipe_is_the_one_that_was_asked_for(whole: tuple[Training, RunRecord]) -> None:
    training, record = whole
    (start,) = training.named("start")
    expected = json_values(Recipe(seed=7, epochs=3, batch_size=1000))
    assert start["recipe"] == expected == json_values(record.recipe)
    assert (start["network"], start["num_params"]) == ("2 10 A", 214)
    assert (start["run"], record.name) == (record.identity, "Mine alone")


def test_the_end_names_a_checkpoint_of_that_accuracy(whole: tuple[Training, RunRecord], mnist: Dataset) -> None:
    training, record = whole
    (end,) = training.named("end")
    assert (end["status"], end["message"], record.status) == ("finished", None, "finished")
    checkpoint = checkpoints.load(Path(end["checkpoint"]))
    accuracy = training.named("epoch")[-1]["test_accuracy"]
    assert end["test_accuracy"] == checkpoint.summary.test_accuracy == accuracy
    assert accuracy_on(checkpoints.network(checkpoint), mnist.test_images, mnist.test_labels) == accuracy


@needs_signals
def test_ctrl_c_keeps_a_checkpoint_that_goes_on_as_if_nothing_had_happened(
    whole: tuple[Training, RunRecord], tmp_path: Path
) -> None:
    first = Training(*SMALL, "--seed", "7", "--epochs", "3", "--runs-dir", str(tmp_path), "--name", "Mine alone")
    first.read_until(step=70)
    first.process.send_signal(signal.SIGINT)
    assert first.end() == 130
    assert first.errors == ""
    end = first.events[-1]
    assert (end["event"], end["status"], end["test_accuracy"]) == ("end", "stopped", None)
    steps = [step["step"] for step in first.named("step")]
    assert steps == list(range(1, end["step"] + 1))
    assert 70 <= end["step"] < 180
    stopped = only_run(tmp_path)
    assert (stopped.status, stopped.history.steps) == ("stopped", end["step"])
    assert str(stopped.identity) in end["checkpoint"]

    # "--folder" is the old name of "--runs-dir".
    second = Training("--resume", stopped.identity, "--folder", str(tmp_path))
    assert second.end() == 0, second.errors
    assert second.events[0]["step"] == end["step"]
    assert [step["step"] for step in second.named("step")] == list(range(end["step"] + 1, 181))
    training, uninterrupted = whole
    assert first.named("step") + second.named("step") == training.named("step")
    assert without_times(first.named("epoch") + second.named("epoch")) == without_times(training.named("epoch"))
    resumed = only_run(tmp_path)
    assert resumed.status == "finished"
    assert without_times(resumed.history.epoch_values()) == without_times(uninterrupted.history.epoch_values())
    for name, column in uninterrupted.history.tensors().items():
        assert torch.equal(resumed.history.tensors()[name], column), name
    assert resumed.state
    assert uninterrupted.state
    for name, tensor in uninterrupted.state.network.items():
        assert torch.equal(resumed.state.network[name], tensor), name


@needs_signals
def test_a_closed_pipe_stops_it_and_the_run_goes_on_from_its_file(tmp_path: Path) -> None:
    training = Training(*SMALL, "--epochs", "20", "--runs-dir", str(tmp_path))
    training.read_until(step=3)
    assert training.process.stdout
    training.process.stdout.close()
    assert training.end() == 141
    assert training.errors == ""
    stopped = only_run(tmp_path)
    assert stopped.status == "stopped"
    assert 3 <= stopped.history.steps < 1200

    path = run_store.path_of(stopped.identity, tmp_path)
    second = Training("2 10 A", "--epochs", "20", "--resume", str(path))
    second.read_until(step=stopped.history.steps + 1)
    second.process.send_signal(signal.SIGINT)
    assert second.end() == 130
    assert second.named("step")[0]["step"] == stopped.history.steps + 1


def test_a_divergence_fails_in_words_and_its_json_has_no_nan(
    tmp_path: Path, typed: Callable[..., tuple[int, str, str]]
) -> None:
    recipe = {"optimiser": "SGD", "learning_rate": 10, "schedule": "constant"}
    training = Training("8n 8n M 8n 10n A", "--recipe", json.dumps(recipe), "--runs-dir", str(tmp_path))
    assert training.end() == 1
    assert training.errors.startswith("The loss was no longer a number at step ")
    assert len(training.errors.splitlines()) == 1
    last, end = training.events[-2:]
    assert (last["event"], last["train_loss"]) == ("step", None)
    assert (end["event"], end["status"], end["test_accuracy"]) == ("end", "failed", None)
    assert end["message"] == training.errors.strip()
    # Nothing goes on from there.
    status, _, errors = typed("train", "--resume", only_run(tmp_path).identity, "--runs-dir", str(tmp_path))
    assert status == 2
    assert "cannot go on" in errors


def test_a_training_that_does_not_learn_says_so(tmp_path: Path) -> None:
    """Once in words while it trains, on the error stream, and at its end; the exit status is that of any training."""
    recipe = ["--recipe", '{"optimiser": "SGD", "learning_rate": 1e-6, "batch_size": 1000, "schedule": "constant"}']
    done = run("train", "2 10 A", *recipe, "--epochs", "1", "--runs-dir", str(tmp_path / "words"))
    assert done.returncode == 0
    (said,) = done.stderr.splitlines()
    assert said.startswith("Step 60: The network is not learning: its loss is ")
    assert said.endswith("the learning rate of 0.000001 is too low. Try 0.02.")
    assert " The network has not learned, as said above. Checkpoint: " in done.stdout.splitlines()[-1]

    training = Training("2 10 A", *recipe, "--epochs", "1", "--runs-dir", str(tmp_path / "json"))
    assert (training.end(), training.errors) == (0, "")
    *_, epoch, diagnosis, end = training.events
    assert (epoch["event"], diagnosis["event"], end["event"]) == ("epoch", "diagnosis", "end")
    assert (diagnosis["step"], diagnosis["kind"], end["diagnosis"]) == (60, "low learning rate", "low learning rate")
    assert said == f"Step 60: {diagnosis['message']}"


def test_in_words_it_is_a_line_an_epoch_and_the_final_accuracy(tmp_path: Path) -> None:
    file = tmp_path / "recipe.json"
    file.write_text('{"batch_size": 2500, "validation": "held-out", "epochs": 9}', encoding="utf-8")
    done = run("train", "2 10 A", "--recipe", f"@{file}", "--epochs", "2", "--runs-dir", str(tmp_path / "new" / "runs"))
    assert (done.returncode, done.stderr) == (0, "")
    record = only_run(tmp_path / "new" / "runs")
    start, first, second, end = done.stdout.splitlines()
    assert start == (
        f"{record.identity}: 2 10 A, 214 parameters; AdamW at 0.02, one-cycle, 2 epochs, batches of 2,500, seed 0"
    )
    held_out, last = record.history.epochs
    assert first == (
        f"Epoch 1 of 2: train loss {held_out.train_loss:.4f}, held-out accuracy "
        f"{accuracy_text(held_out.validation_accuracy, 5_000)}, {held_out.images_per_second:,.0f} images/s"
    )
    assert last.test_accuracy is not None
    accuracy = accuracy_text(last.test_accuracy, 10_000)
    assert f", test accuracy {accuracy}, " in second
    path = run_store.path_of(record.identity, tmp_path / "new" / "runs")
    assert end == f"{accuracy} on the test images after the final epoch, 2. Checkpoint: {path}"


@pytest.mark.parametrize("text", ["No scheduler", "no-scheduler", "NO SCHEDULER", "thorough-small-network"])
def test_a_preset_is_named_with_spaces_or_hyphens_in_any_case(text: str) -> None:
    title = "Thorough, small network" if text.startswith("t") else "No scheduler"
    assert read_recipe(text) == next(preset.recipe for preset in RECIPES if preset.title == title)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "Name a network, such as"),
        (("4 oops",), "Token 2, “oops”, is not a layer."),
        (("4 10 A", "--recipe", "oops"), "There is no recipe “oops”: name one of “Quick”, “One epoch”, "),
        (("4 10 A", "--recipe", '{"oops": 1}'), "The recipe has unknown entries: oops."),
        (("4 10 A", "--recipe", '{"epochs": 1'), "The recipe is not one that Receptive wrote."),
        (("4 10 A", "--recipe", "@oops.json"), "The recipe oops.json cannot be read"),
        (("4 10 A", "--recipe", "Quick", "--epochs", "0"), "The number of epochs must be from 1 to 100"),
        (("4 10 A", "--seed", "-1"), "The seed must be from 0 to "),
        (("4 10 A", "--name", "x" * 61), "A name has at most 60 characters; this one has 61."),
        (("2048 2048 2048 10 A", "--recipe", '{"batch_size": 4096}'), "Training this network with a batch of 4,096"),
        (("--resume", "oops"), "There is no run oops in "),
        (("4 10 A", "--runs-dir", "README.md"), "The folder "),
        (("4 10 A", "--folder", "README.md"), "The folder "),
    ],
)
def test_what_cannot_be_used_is_one_sentence_on_the_error_stream(
    arguments: tuple[str, ...], sentence: str, tmp_path: Path, typed: Callable[..., tuple[int, str, str]]
) -> None:
    folder = () if {"--runs-dir", "--folder"} & {*arguments} else ("--runs-dir", str(tmp_path))
    status, output, errors = typed("train", *arguments, *folder)
    assert (status, output) == (2, "")
    assert errors.startswith(sentence)
    assert len(errors.splitlines()) == 1
    assert not list(tmp_path.glob(f"*{SUFFIX}"))


def test_a_run_keeps_its_network_and_its_recipe(
    whole: tuple[Training, RunRecord], typed: Callable[..., tuple[int, str, str]]
) -> None:
    training, record = whole
    path = training.events[-1]["checkpoint"]
    for arguments, sentence in (
        (("4 10 A",), "Mine alone trains 2 10 A: leave the network out."),
        (("--seed", "8"), "Mine alone keeps its recipe (seed 7 → 8 was asked for): "),
        ((*SMALL, "--seed", "7", "--epochs", "3"), "Mine alone cannot go on: "),
    ):
        status, output, errors = typed("train", *arguments, "--resume", path)
        assert (status, output) == (2, "")
        assert errors.startswith(sentence)
    assert run_store.load(Path(path)).status == record.status


def test_a_file_that_is_no_run_stays_where_it_is(tmp_path: Path, typed: Callable[..., tuple[int, str, str]]) -> None:
    file = tmp_path / f"mine{SUFFIX}"
    file.write_bytes(b"of another program")
    status, _, errors = typed("train", "4 10 A", "--runs-dir", str(tmp_path))
    assert status == 2
    assert f"holds {file.name}, which cannot be read as a run" in errors
    assert file.read_bytes() == b"of another program"


def test_the_app_keeps_its_runs_where_it_trains_without_a_folder() -> None:
    done = run("train", "--resume", "oops")
    assert done.stderr.startswith(f"There is no run oops in {checkpoints.SAVED_FOLDER}: ")


# predict


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, mnist: Dataset) -> dict[str, Path]:
    """Photos of a 7, a 2 and a 1, and what is none."""
    folder = tmp_path_factory.mktemp("photos")
    files = {name: folder / name for name in ("seven.jpg", "two.jpg", "one – Zoé.png", "text.png", "missing.png")}
    files["seven.jpg"].write_bytes(photo(mnist.test_images[0], "paper", 0))
    files["two.jpg"].write_bytes(photo(mnist.test_images[1], "blackboard", 1))
    files["one – Zoé.png"].write_bytes(photo(mnist.test_images[2], "tile", 2))
    files["text.png"].write_bytes(b"print('never run')")
    return files


def test_images_are_read_a_line_each(images: dict[str, Path]) -> None:
    names = [str(images[name]) for name in ("seven.jpg", "two.jpg", "one – Zoé.png")]
    done = run("predict", *names)
    assert (done.returncode, done.stderr) == (0, "")
    for line, name, digit in zip(done.stdout.splitlines(), names, (7, 2, 1), strict=True):
        assert line.startswith(f"{name}: reads {digit} with a probability of ")
        assert float(line.split()[-2]) > 90
        assert line.endswith(" %")


def test_in_json_what_cannot_be_read_is_a_line_too_and_the_rest_is_read(
    images: dict[str, Path], typed: Callable[..., tuple[int, str, str]]
) -> None:
    names = [str(path) for path in images.values()]
    status, output, errors = typed("predict", "--json", *names, str(images["text.png"].parent))
    assert (status, errors) == (1, "")
    seven, two, one, text, missing, folder = map(json.loads, output.splitlines())
    assert [line["digit"] for line in (seven, two, one)] == [7, 2, 1]
    for line, name in zip((seven, two, one), names, strict=False):
        assert line["file"] == name
        assert len(line["probabilities"]) == 10
        assert sum(line["probabilities"]) == pytest.approx(1)
        assert line["confidence"] == max(line["probabilities"]) == line["probabilities"][line["digit"]]
        assert line["certain"] is (line["confidence"] >= 0.9 and line["novelty"] <= 0.98)
    assert text == {"file": names[3], "error": "It is not a PNG or JPEG image: save the photo as one of these."}
    assert missing["error"] == "It cannot be opened (No such file or directory): check its name."
    assert folder["error"] == "It cannot be opened (it is a folder, not a regular file): check its name."


def test_what_cannot_be_read_is_a_sentence_on_the_error_stream(
    images: dict[str, Path], typed: Callable[..., tuple[int, str, str]]
) -> None:
    status, output, errors = typed("predict", str(images["text.png"]), str(images["seven.jpg"]))
    assert status == 1
    assert errors == f"{images['text.png']}: It is not a PNG or JPEG image: save the photo as one of these.\n"
    assert len(output.splitlines()) == 1


def test_another_checkpoint_reads_by_its_name_or_its_file(
    images: dict[str, Path], typed: Callable[..., tuple[int, str, str]]
) -> None:
    name = "small-4468"
    probabilities = set()
    for checkpoint in ((), ("--checkpoint", name), ("--checkpoint", str(checkpoints.FOLDER / f"{name}{SUFFIX}"))):
        status, output, errors = typed("predict", str(images["seven.jpg"]), "--json", *checkpoint)
        assert status == 0, errors
        probabilities.add(tuple(json.loads(output)["probabilities"]))
    assert len(probabilities) == 2


def test_a_checkpoint_that_cannot_be_used_is_a_sentence(
    images: dict[str, Path], tmp_path: Path, typed: Callable[..., tuple[int, str, str]]
) -> None:
    broken = tmp_path / f"broken{SUFFIX}"
    broken.write_bytes(b"no checkpoint")
    for unusable, sentence in (
        ("oops", "There is no checkpoint oops: name one of "),
        (str(broken), f"{broken.name} is not a checkpoint of Receptive"),
        (str(tmp_path / f"gone{SUFFIX}"), "The checkpoint gone.safetensors cannot be read"),
    ):
        status, output, errors = typed("predict", str(images["seven.jpg"]), "--checkpoint", unusable)
        assert (status, output) == (2, "")
        assert errors.startswith(sentence)
        assert len(errors.splitlines()) == 1


def test_without_an_image_there_is_nothing_to_predict() -> None:
    assert run("predict").returncode == 2
