"""`train`: train a network with the engine of the app, into its folder of runs."""

from __future__ import annotations

import argparse
import math
import os
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lib.cli.output import SIGPIPE, Event, OutputError, UsageError, discard, json_text, write_error, write_line
from lib.cli.signals import Signals, has_ended
from lib.design.analysis import analyze
from lib.design.layers import Architecture
from lib.design.notation import notation, parse
from lib.design.recipe import RECIPES, Recipe, differences, from_json, json_values
from lib.evaluation.proportion import accuracy_text
from lib.files import regular_file
from lib.text.untrusted_text import NameRefusedError, visible
from lib.text.untrusted_text import name as accepted_name

if TYPE_CHECKING:
    from lib.runs.run_manager import RunManager
    from lib.runs.training_run import Run, RunStatus
    from lib.training.diagnosis import Diagnosis


TRAIN_IMAGES, TEST_IMAGES = 60_000, 10_000
MAX_RECIPE_BYTES = 100_000


def add_train(parser: argparse.ArgumentParser) -> None:
    titles = ", ".join(f"“{preset.title}”" for preset in RECIPES)
    parser.description = (
        "Ctrl-C and SIGTERM stop the training within a batch, and end the command within a second. If the batch, or "
        "the program that reads the output, takes longer, the run is left as it was last saved. --resume continues it "
        "from there as if nothing had happened. "
        "Exit status: 0 finished, 1 failed, 2 invalid arguments, 128 + the signal's number if stopped."
    )
    parser.add_argument("network", nargs="?", help='in the notation, such as "4 4 8 M 12 12 16 M 20v 10v A"')
    parser.add_argument(
        "--recipe",
        metavar="NAME|JSON",
        help=f"one of {titles}, or a JSON object, or @file.json; without this option “Quick”; a key that the object "
        "leaves out has its default, which docs/cli.md lists",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="replaces the recipe's seed")
    parser.add_argument("--epochs", type=int, metavar="N", help="replaces the recipe's number of epochs")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line for each step and epoch")
    parser.add_argument(
        "--resume",
        metavar="RUN",
        help="continue a stopped or interrupted run, given by its id or its file, with its own network and recipe",
    )
    parser.add_argument(
        "--runs-dir", "--folder", type=Path, metavar="PATH", help="the folder that keeps the runs, instead of the app's"
    )
    parser.add_argument("--name", help="the name of the run in the app")
    parser.set_defaults(command=train)


def train(options: argparse.Namespace) -> int:
    """Train until the run ends, a signal comes, or the reader closes the output.

    SIGINT and SIGTERM stay handled for the rest of the process and end it within a second.

    Return 0 for a finished run, 1 for a run that has failed or could not be saved, and for a stopped run 128 + the
    number of the signal, which is SIGPIPE for a closed output. Raises ArchitectureError, RecipeError and UsageError.
    """
    architecture = parse(options.network) if options.network is not None else None
    recipe = chosen_recipe(options, RECIPES[0].recipe)
    if architecture is None and options.resume is None:
        raise UsageError('Name a network, such as "4 8 M 10 A", or a run to continue (--resume).')
    signals = Signals()
    try:
        return _train(options, architecture, recipe, signals)
    finally:
        signals.done()


def _train(options: argparse.Namespace, architecture: Architecture | None, recipe: Recipe, signals: Signals) -> int:
    from lib.data import dataset
    from lib.runs.run_manager import RunManager
    from lib.runs.training_run import RunError
    from lib.storage.checkpoints import SAVED_FOLDER, passed_over

    folder: Path = (options.runs_dir or SAVED_FOLDER).absolute()
    identity = None
    if options.resume is not None:
        folder, identity, architecture, recipe = find_run(options, folder)
    assert architecture is not None
    check_trainable(architecture, recipe, folder)
    manager = RunManager(dataset.load, folder)
    for sentence in [*manager.set_aside, *passed_over(folder)]:
        write_error(sentence)
    try:
        run, steps, epochs = start_or_resume(manager, architecture, recipe, identity, options.name)
        return follow(run, steps, epochs, signals, options.json)
    except RunError as error:
        raise UsageError(str(error)) from error
    finally:
        # The interpreter must not shut down while another thread uses torch.
        manager.close()


def chosen_recipe(options: argparse.Namespace, otherwise: Recipe) -> Recipe:
    """Return the recipe of --recipe, or `otherwise` without it, with the values of --seed and --epochs if given.

    Raises RecipeError and UsageError.
    """
    recipe = otherwise if options.recipe is None else read_recipe(options.recipe)
    changes = {"seed": options.seed, "epochs": options.epochs}
    return replace(recipe, **{name: value for name, value in changes.items() if value is not None})


def read_recipe(text: str) -> Recipe:
    """Read a recipe: a preset's title in any case, with spaces or hyphens; a JSON object; or @ and the path of a file.

    Raises RecipeError and UsageError.
    """
    if text.startswith("@"):
        try:
            return from_json(regular_file.read(text[1:], MAX_RECIPE_BYTES).decode())
        except OSError as error:
            raise UsageError(f"The recipe {text[1:]} cannot be read ({error.strerror}).") from error
        except UnicodeDecodeError as error:
            raise UsageError(f"The recipe {text[1:]} is not a text file.") from error
    if text.lstrip().startswith("{"):
        return from_json(text)
    for preset in RECIPES:
        if _words(preset.title) == _words(text):
            return preset.recipe
    titles = ", ".join(f"“{preset.title}”" for preset in RECIPES)
    raise UsageError(f"There is no recipe “{text}”: name one of {titles}, or give a JSON object or @file.json.")


def _words(title: str) -> list[str]:
    return re.findall(r"\w+", title.casefold())


def find_run(options: argparse.Namespace, folder: Path) -> tuple[Path, str, Architecture, Recipe]:
    """Return folder, identity, network and recipe of the run to resume. Raises RecipeError and UsageError."""
    from lib.runs import run_store
    from lib.storage.checkpoints import SUFFIX, CheckpointError

    identity: str = options.resume
    if identity.endswith(SUFFIX):
        path = Path(identity).absolute()
        folder, identity = path.parent, path.stem
    path = run_store.path_of(identity, folder)
    if not os.path.lexists(path):
        raise UsageError(f"There is no run {identity} in {folder}: name it as the file there, or another --runs-dir.")
    try:
        record = run_store.load(path)
    except CheckpointError as error:
        raise UsageError(str(error)) from error
    if options.network is not None and parse(options.network) != record.architecture:
        raise UsageError(f"{record.name} trains {notation(record.architecture)}: leave the network out.")
    changed = differences(record.recipe, chosen_recipe(options, record.recipe))
    if changed:
        raise UsageError(
            f"{record.name} keeps its recipe ({', '.join(changed)} was asked for): leave --recipe, --seed and --epochs "
            "out, or start a new run."
        )
    return path.parent, record.identity, record.architecture, record.recipe


def check_trainable(architecture: Architecture, recipe: Recipe, folder: Path) -> None:
    """Create the folder. Raises UsageError if the run cannot be trained, or not be saved there."""
    from lib.runs import run_store
    from lib.runs.preflight import preflight_error, trained_images
    from lib.storage import checkpoints
    from lib.storage.checkpoints import SAVED_FOLDER, SUFFIX, CheckpointError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"The folder {folder} cannot be made ({error.strerror}). Name another one.") from error
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise UsageError(f"The folder {folder} cannot be written to. Name another one.")
    if folder.resolve() != SAVED_FOLDER.resolve():
        # A run manager moves files that are not runs out of its folder. That must not happen in a folder of the user.
        for path, _ in regular_file.listing(folder, SUFFIX).files:
            try:
                if "identity" in checkpoints.load(path).details:
                    run_store.load(path)
            except CheckpointError as error:
                if not os.path.lexists(path):
                    continue
                raise UsageError(
                    f"The folder {folder} holds {path.name}, which cannot be read as a run. Name another folder."
                ) from error
    problem = preflight_error(architecture, recipe, folder, trained_images(recipe))
    if problem:
        raise UsageError(problem)


def start_or_resume(
    manager: RunManager, architecture: Architecture, recipe: Recipe, identity: str | None, name: str | None
) -> tuple[Run, int, int]:
    """Start or resume a run; return it with the numbers of steps and epochs that it had before.

    Raises RunError and UsageError.
    """
    from lib.runs.training_run import MAX_NAME

    try:
        name = accepted_name(name or "", MAX_NAME)
    except NameRefusedError as error:
        raise UsageError(str(error)) from error
    steps = epochs = 0
    if identity is None:
        run = manager.start(architecture, recipe)
    else:
        found = manager.get(identity)
        if found is None:
            raise UsageError(f"{identity} is in training in another process: stop it there first.")
        run, before = found, found.snapshot()
        steps, epochs = before.step, len(before.epochs)
        manager.resume(run)
    if name:
        run.rename(name)
    return run, steps, epochs


def follow(run: Run, steps: int, epochs: int, signals: Signals, as_json: bool) -> int:
    """Print the events of a run, from the given step and epoch to its end; return the exit status."""
    signals.stop(run)
    trouble = None
    try:
        for event in _events(run, steps, epochs):
            text = as_line(event) if as_json else as_sentence(event, run.recipe)
            if text and not as_json and event["event"] == "diagnosis":
                write_error(text)
            elif text:
                write_line(text)
    except OutputError as error:
        run.stop()
        while not has_ended(run):
            pass
        discard(sys.stdout)
        if error.sentence:
            trouble = f"The training was stopped. {error.sentence}"
    signals.settle()
    snapshot = run.snapshot()
    sentences = [sentence for sentence in (trouble, snapshot.message, snapshot.save_error) if sentence]
    for sentence in sentences:
        write_error(sentence)
    if snapshot.status == "failed" or sentences:
        return 1
    return 0 if snapshot.status == "finished" else 128 + (signals.number or SIGPIPE)


def _events(run: Run, steps: int, epochs: int) -> Iterator[Event]:
    """Yield the start, then each step and epoch after the given numbers, in order, and the end."""
    yield {
        "event": "start",
        "run": run.identity,
        "network": notation(run.architecture),
        "num_params": analyze(run.architecture).num_params,
        "recipe": json_values(run.recipe),
        "step": steps,
    }
    diagnosis = None
    while True:
        ended = has_ended(run)
        snapshot = run.snapshot(steps, epochs)
        # An epoch comes after the step of its number.
        yield from sorted([*_steps(run, snapshot), *_epochs(snapshot)], key=lambda event: int(event["step"]))
        steps, epochs = steps + len(snapshot.curves), epochs + len(snapshot.epochs)
        if _kind(snapshot.diagnosis) != _kind(diagnosis):
            diagnosis = snapshot.diagnosis
            yield {
                "event": "diagnosis",
                "step": steps,
                "kind": _kind(diagnosis),
                "message": diagnosis.text if diagnosis else None,
            }
        if ended:
            break
    snapshot = run.snapshot(steps)
    last = snapshot.epochs[-1] if snapshot.epochs else None
    yield {
        "event": "end",
        "run": run.identity,
        "status": snapshot.status,
        "message": snapshot.message or snapshot.save_error,
        "checkpoint": str(snapshot.saved) if snapshot.saved else None,
        # An accuracy from before the last step is not that of the network in the checkpoint.
        "test_accuracy": last.test_accuracy if last and last.step == snapshot.step else None,
        "step": snapshot.step,
        "diagnosis": _kind(snapshot.diagnosis),
    }


def _kind(diagnosis: Diagnosis | None) -> str | None:
    return diagnosis.kind if diagnosis else None


def _steps(run: Run, snapshot: RunStatus) -> Iterator[Event]:
    curves, per_epoch = snapshot.curves, max(1, snapshot.steps_total // run.recipe.epochs)
    columns = (curves.train_loss, curves.train_accuracy, curves.learning_rate)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    for step, (loss, accuracy, rate) in enumerate(rows, curves.first):
        yield {
            "event": "step",
            "step": step,
            "epoch": (step - 1) // per_epoch + 1,
            "train_loss": loss,
            "train_accuracy": accuracy,
            "learning_rate": rate,
        }


def _epochs(snapshot: RunStatus) -> Iterator[Event]:
    for metrics in snapshot.epochs:
        yield {"event": "epoch", **asdict(metrics)}


def as_line(event: Event) -> str:
    """Return the event as one JSON object; numbers that are not finite, such as a diverged loss, become null."""
    values = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in event.items()
    }
    return json_text(values, allow_nan=False)


def as_sentence(event: Event, recipe: Recipe) -> str | None:
    """Return the event as a sentence; None for a step."""
    match event["event"]:
        case "start":
            after = f"; it continues after step {event['step']:,}" if event["step"] else ""
            return (
                f"{event['run']}: {event['network']}, {event['num_params']:,} parameters; {recipe.optimizer} at "
                f"{recipe.learning_rate:g}, {recipe.schedule}, {recipe.epochs} epoch{'s' * (recipe.epochs != 1)}, "
                f"batches of {recipe.batch_size:,}, seed {recipe.seed}{after}"
            )
        case "epoch":
            parts = [f"train loss {event['train_loss']:.4f}"]
            if recipe.validation != "test":
                accuracy = accuracy_text(event["validation_accuracy"], event["validation_images"])
                parts.append(f"held-out accuracy {accuracy}")
            if event["test_accuracy"] is not None:
                parts.append(f"test accuracy {accuracy_text(event['test_accuracy'], TEST_IMAGES)}")
            parts.append(f"{event['images_per_second']:,.0f} images/s")
            return f"Epoch {event['epoch']} of {recipe.epochs}: {', '.join(parts)}"
        case "diagnosis":
            return f"Step {event['step']:,}: {event['message'] or 'The network is learning now.'}"
        case "end":
            return _end_sentence(event, recipe)
    return None


def _end_sentence(event: Event, recipe: Recipe) -> str:
    # The path is its folder's: a line break in it is no line's end.
    path = visible(event["checkpoint"] or "")
    kept = f"Checkpoint: {path}" if path else "There is no checkpoint."
    match event["status"]:
        case "finished":
            accuracy = accuracy_text(event["test_accuracy"], TEST_IMAGES)
            learned = " The network has not learned, as said above." if event["diagnosis"] else ""
            return f"{accuracy} on the test images after the final epoch, {recipe.epochs}.{learned} {kept}"
        case "stopped" if path:
            return f"Stopped at step {event['step']:,}. {kept}\nGo on: python -m lib train --resume {shlex.quote(path)}"
        case "failed" if path:
            # A diverged run keeps no weights: they are the reason of the divergence.
            return f"Failed at step {event['step']:,}. Its curves up to there: {path}"
    return f"{event['status'].capitalize()} at step {event['step']:,}. {kept}"
