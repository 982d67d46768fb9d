"""The lab without a screen.

- `python -m lib describe "4 8 M 10 A"` prints what each layer outputs, costs and sees. It needs no torch, so it answers
  at once.
- `python -m lib train "4 8 M 10 A"` trains with the app's own engine and into its folder of runs: the app lists the run
  from its next start on.
- `python -m lib predict IMAGE...` reads photos of digits with a trained network.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import re
import select
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, TypeAlias

from lib import regular_file
from lib.analysis import NetworkAnalysis, analyze, per_layer
from lib.formatting import percent
from lib.layers import Architecture, ArchitectureError
from lib.memory import OUT_OF_MEMORY, TooLargeError, is_out_of_memory
from lib.notation import notation, parse
from lib.proportion import accuracy_text
from lib.recipe import RECIPES, Recipe, RecipeError, differences, from_json
from lib.tables import layers_text
from lib.untrusted_text import NameRefusedError, visible
from lib.untrusted_text import name as accepted_name

if TYPE_CHECKING:
    from lib.checkpoints import Checkpoint
    from lib.predict import Prediction
    from lib.run_manager import RunManager
    from lib.training_run import Run, RunStatus

TRAIN_IMAGES, TEST_IMAGES = 60_000, 10_000
POLL_SECONDS = 0.1
MAX_RECIPE_BYTES = 100_000
# From a signal to the end of the process: less than a second, for the system takes some time to clear its memory away.
GRACE_SECONDS = 0.75
# What a shell reports of a process that this signal has ended; Windows has no such signal.
SIGPIPE = 13

Event: TypeAlias = dict[str, Any]


class UnusableError(ValueError):
    """Arguments that cannot be used, in a sentence with the remedy."""


class OutputError(Exception):
    """Standard output that cannot be written to; `status` is the exit status, `sentence` None for a closed pipe."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.closed = isinstance(error, BrokenPipeError)
        self.sentence = None if self.closed else f"The output could not be written ({error.strerror})."
        self.status = 128 + SIGPIPE if self.closed else 1


class _Parser(argparse.ArgumentParser):
    """One whose help and complaints hold no control characters and tell when they cannot be written."""

    def print_help(self, _: object = None) -> None:
        _say(self.format_help().rstrip("\n"))

    def error(self, message: str) -> NoReturn:
        _complain(f"{self.format_usage()}{self.prog}: error: {message}")
        sys.exit(2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: the command's own; 2, with a sentence, for arguments that cannot be used; 1, with a
    sentence, where the output cannot be written; 128 + the number of SIGPIPE where nobody reads it any more.
    """
    _take_standard_streams()
    if sys.stdout is None:
        _complain("Standard output is closed: redirect it to a file, or to /dev/null.")
        return 1
    try:
        return _run(arguments)
    except (ArchitectureError, RecipeError, UnusableError) as error:
        _complain(str(error))
        return 2
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, TooLargeError) and not is_out_of_memory(error):
            raise
        _complain(str(error) if isinstance(error, TooLargeError) else OUT_OF_MEMORY)
        return 2
    except OutputError as error:
        _discard(sys.stdout)
        if error.sentence:
            _complain(error.sentence)
        return error.status


def _run(arguments: Sequence[str] | None) -> int:
    parser = _Parser(prog="python -m lib", description="Receptive without a screen.")
    commands = parser.add_subparsers(required=True, metavar="command")
    _add_describe(commands.add_parser("describe", help="what each layer of a network outputs, costs and sees"))
    _add_train(commands.add_parser("train", help="train a network on MNIST; the app lists the run"))
    _add_predict(commands.add_parser("predict", help="read photos of digits with a trained network"))
    options = parser.parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    return command(options)


def _take_standard_streams() -> None:
    for number in range(3):
        # A file that is opened later must not take the number of a stream that was closed: all that is printed, also
        # by libraries, would go into it.
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A character that a terminal does not have must not end a training.
            stream.reconfigure(errors="replace")


def _printable(text: str) -> str:
    """Lines without control characters: a terminal would obey them."""
    return "\n".join(map(visible, text.split("\n")))


def _say(text: str) -> None:
    """Print it at once. Raises OutputError."""
    try:
        print(_printable(text), flush=True)
    except OSError as error:
        raise OutputError(error) from error


def _json(values: Event, **options: Any) -> str:
    """JSON in ASCII without control characters; `options` are those of `json.dumps`."""
    return json.dumps(values, **options).replace("\x7f", "\\u007f")


def _complain(sentence: str) -> None:
    # Where there is no error stream, print would take the output.
    if sys.stderr is None:
        return
    try:
        print(_printable(sentence), file=sys.stderr, flush=True)
    except OSError:
        _discard(sys.stderr)


def _discard(stream: TextIO) -> None:
    """Let the interpreter's last flush of the stream go nowhere: it would fail as the one before it."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


# describe


def _add_describe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("network", help='in the notation, such as "4 4 8 M 12 12 16 M 20v 10v A"')
    parser.add_argument("--modules", action="store_true", help="one row for every nn module instead of every layer")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.set_defaults(command=describe)


def describe(options: argparse.Namespace) -> int:
    """Print the analysis. Raises ArchitectureError."""
    architecture = parse(options.network)
    analysis = analyze(architecture)
    if not options.modules:
        analysis = per_layer(analysis, architecture)
    _say(as_json(analysis, architecture) if options.json else layers_text(analysis))
    return 0


def as_json(analysis: NetworkAnalysis, architecture: Architecture) -> str:
    """The analysis with its own field names, and the network in the notation."""
    return _json({"network": notation(architecture), **asdict(analysis)}, indent=2)


# train


def _add_train(parser: argparse.ArgumentParser) -> None:
    titles = ", ".join(f"“{preset.title}”" for preset in RECIPES)
    parser.description = (
        "Ctrl-C and SIGTERM stop the training within a batch, and end the command within a second: where the batch, or "
        "whoever reads the output, takes longer, the run is as it was last saved. --resume goes on from there as if "
        "nothing had happened. "
        "Exit status: 0 finished, 1 failed, 2 arguments that cannot be used, 128 + the signal's number stopped."
    )
    parser.add_argument("network", nargs="?", help='in the notation, such as "4 4 8 M 12 12 16 M 20v 10v A"')
    parser.add_argument(
        "--recipe",
        metavar="NAME|JSON",
        help=f"one of {titles}, or a JSON object, or @file.json; what the object leaves out is as in “Quick”, "
        "which is also what there is without this option",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="instead of the recipe's")
    parser.add_argument("--epochs", type=int, metavar="N", help="instead of the recipe's")
    parser.add_argument("--json", action="store_true", help="one JSON object a line for every step and every epoch")
    parser.add_argument(
        "--resume",
        metavar="RUN",
        help="go on with a run that was stopped or interrupted: its identity, or its file; it keeps its network and "
        "recipe",
    )
    parser.add_argument("--folder", type=Path, metavar="PATH", help="a folder of runs other than the app's")
    parser.add_argument("--name", help="what the app calls the run")
    parser.set_defaults(command=train)


def train(options: argparse.Namespace) -> int:
    """Train to the end, or until a signal comes or nobody reads the output any more; SIGINT and SIGTERM are taken for
    the rest of the process, and end it within a second.

    Returns 0 for a run that has finished, 1 for one that has failed or could not be saved, and for one that was stopped
    128 + the number of the signal, that of SIGPIPE for a closed output. Raises ArchitectureError, RecipeError and
    UnusableError.
    """
    architecture = parse(options.network) if options.network is not None else None
    recipe = chosen_recipe(options, RECIPES[0].recipe)
    if architecture is None and options.resume is None:
        raise UnusableError('Name a network, such as "4 8 M 10 A", or a run to go on with (--resume).')
    signals = _Signals()
    try:
        return _train(options, architecture, recipe, signals)
    finally:
        signals.done()


def _train(options: argparse.Namespace, architecture: Architecture | None, recipe: Recipe, signals: _Signals) -> int:
    from lib import dataset
    from lib.checkpoints import SAVED_FOLDER, passed_over
    from lib.run_manager import RunManager
    from lib.training_run import RunError

    folder: Path = (options.folder or SAVED_FOLDER).absolute()
    identity = None
    if options.resume is not None:
        folder, identity, architecture, recipe = _found(options, folder)
    assert architecture is not None
    _refuse(architecture, recipe, folder)
    manager = RunManager(dataset.load, folder)
    for sentence in [*manager.set_aside, *passed_over(folder)]:
        _complain(sentence)
    try:
        run, steps, epochs = _begin(manager, architecture, recipe, identity, options.name)
        return _follow(run, steps, epochs, signals, options.json)
    except RunError as error:
        raise UnusableError(str(error)) from error
    finally:
        # Nothing may be in the middle of torch's work when the interpreter ends.
        manager.close()


def chosen_recipe(options: argparse.Namespace, otherwise: Recipe) -> Recipe:
    """What --recipe names, `otherwise` without it, with --seed and --epochs in place of its own.

    Raises RecipeError and UnusableError.
    """
    recipe = otherwise if options.recipe is None else read_recipe(options.recipe)
    changes = {"seed": options.seed, "epochs": options.epochs}
    return replace(recipe, **{name: value for name, value in changes.items() if value is not None})


def read_recipe(text: str) -> Recipe:
    """A preset's title in any case, with spaces or hyphens; a JSON object; or @ and the name of a file that has one.

    Raises RecipeError and UnusableError.
    """
    if text.startswith("@"):
        try:
            return from_json(regular_file.read(text[1:], MAX_RECIPE_BYTES).decode())
        except OSError as error:
            raise UnusableError(f"The recipe {text[1:]} cannot be read ({error.strerror}).") from error
        except UnicodeDecodeError as error:
            raise UnusableError(f"The recipe {text[1:]} is not a text file.") from error
    if text.lstrip().startswith("{"):
        return from_json(text)
    for preset in RECIPES:
        if _words(preset.title) == _words(text):
            return preset.recipe
    titles = ", ".join(f"“{preset.title}”" for preset in RECIPES)
    raise UnusableError(f"There is no recipe “{text}”: name one of {titles}, or give a JSON object or @file.json.")


def _words(title: str) -> list[str]:
    return re.findall(r"\w+", title.casefold())


def _found(options: argparse.Namespace, folder: Path) -> tuple[Path, str, Architecture, Recipe]:
    """The run that --resume means: its folder, identity, network and recipe. Raises RecipeError and UnusableError."""
    from lib import run_store
    from lib.checkpoints import SUFFIX, CheckpointError

    identity: str = options.resume
    if identity.endswith(SUFFIX):
        path = Path(identity).absolute()
        folder, identity = path.parent, path.stem
    path = run_store.path_of(identity, folder)
    if not os.path.lexists(path):
        raise UnusableError(f"There is no run {identity} in {folder}: name it as the file there, or another --folder.")
    try:
        record = run_store.load(path)
    except CheckpointError as error:
        raise UnusableError(str(error)) from error
    if options.network is not None and parse(options.network) != record.architecture:
        raise UnusableError(f"{record.name} trains {notation(record.architecture)}: leave the network out.")
    changed = differences(record.recipe, chosen_recipe(options, record.recipe))
    if changed:
        raise UnusableError(
            f"{record.name} keeps its recipe ({', '.join(changed)} was asked for): leave --recipe, --seed and --epochs "
            "out, or start a new run."
        )
    return path.parent, record.identity, record.architecture, record.recipe


def _refuse(architecture: Architecture, recipe: Recipe, folder: Path) -> None:
    """Make the folder. Raises UnusableError where the run cannot be trained, or not be kept there."""
    from lib import checkpoints, run_store
    from lib.checkpoints import SAVED_FOLDER, SUFFIX, CheckpointError
    from lib.preflight import preflight_error, trained_images

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnusableError(f"The folder {folder} cannot be made ({error.strerror}). Name another one.") from error
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise UnusableError(f"The folder {folder} cannot be written to. Name another one.")
    if folder.resolve() != SAVED_FOLDER.resolve():
        # A manager sets aside whatever is no run in its folder: meant for the app's own, not for one that was typed.
        for path, _ in regular_file.listing(folder, SUFFIX).files:
            try:
                if "identity" in checkpoints.load(path).details:
                    run_store.load(path)
            except CheckpointError as error:
                if not os.path.lexists(path):
                    continue
                raise UnusableError(
                    f"The folder {folder} holds {path.name}, which cannot be read as a run. Name another folder."
                ) from error
    problem = preflight_error(architecture, recipe, folder, trained_images(recipe))
    if problem:
        raise UnusableError(problem)


def _begin(
    manager: RunManager, architecture: Architecture, recipe: Recipe, identity: str | None, name: str | None
) -> tuple[Run, int, int]:
    """The run, queued or in training by now, and the steps and epochs that it had before.

    Raises RunError and UnusableError.
    """
    from lib.training_run import MAX_NAME

    try:
        name = accepted_name(name or "", MAX_NAME)
    except NameRefusedError as error:
        raise UnusableError(str(error)) from error
    steps = epochs = 0
    if identity is None:
        run = manager.start(architecture, recipe)
    else:
        found = manager.get(identity)
        if found is None:
            raise UnusableError(f"{identity} is in training in another process: stop it there first.")
        run, before = found, found.snapshot()
        steps, epochs = before.step, len(before.epochs)
        manager.resume(run)
    if name:
        run.rename(name)
    return run, steps, epochs


def _follow(run: Run, steps: int, epochs: int, signals: _Signals, as_json: bool) -> int:
    """Print what happens after so many steps and epochs, to the end of the run; returns the exit status."""
    signals.stop(run)
    trouble = None
    try:
        for event in _events(run, steps, epochs):
            text = as_line(event) if as_json else as_sentence(event, run.recipe)
            if text:
                _say(text)
    except OutputError as error:
        run.stop()
        while not _ended(run):
            pass
        _discard(sys.stdout)
        if error.sentence:
            trouble = f"The training was stopped. {error.sentence}"
    signals.settle()
    snapshot = run.snapshot()
    sentences = [sentence for sentence in (trouble, snapshot.message, snapshot.save_error) if sentence]
    for sentence in sentences:
        _complain(sentence)
    if snapshot.status == "failed" or sentences:
        return 1
    return 0 if snapshot.status == "finished" else 128 + (signals.number or SIGPIPE)


def _ended(run: Run) -> bool:
    """Wait a little; says whether the run has ended and is saved."""
    # A run that is queued still has no thread to wait for, and one that has just ended is not saved yet.
    return run.wait(POLL_SECONDS) and not run.active


def _events(run: Run, steps: int, epochs: int) -> Iterator[Event]:
    """The start; every step and every epoch after so many, in the order they came; the end."""
    yield {
        "event": "start",
        "run": run.identity,
        "network": notation(run.architecture),
        "num_params": analyze(run.architecture).num_params,
        "recipe": asdict(run.recipe),
        "step": steps,
    }
    while True:
        ended = _ended(run)
        snapshot = run.snapshot(steps, epochs)
        # An epoch comes after the step of its number.
        yield from sorted([*_steps(run, snapshot), *_epochs(snapshot)], key=lambda event: int(event["step"]))
        steps, epochs = steps + len(snapshot.curves), epochs + len(snapshot.epochs)
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
        # One measured before the last step is not that of the network in the checkpoint.
        "test_accuracy": last.test_accuracy if last and last.step == snapshot.step else None,
        "step": snapshot.step,
    }


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
    """One JSON object; what is not a number there, a loss after a divergence, is null."""
    values = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in event.items()
    }
    return _json(values, allow_nan=False)


def as_sentence(event: Event, recipe: Recipe) -> str | None:
    """The event in words; None for a step."""
    match event["event"]:
        case "start":
            after = f"; it goes on after step {event['step']:,}" if event["step"] else ""
            return (
                f"{event['run']}: {event['network']}, {event['num_params']:,} parameters; {recipe.optimiser} at "
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
            return f"{accuracy} on the test images after the final epoch, {recipe.epochs}. {kept}"
        case "stopped" if path:
            return f"Stopped at step {event['step']:,}. {kept}\nGo on: python -m lib train --resume {shlex.quote(path)}"
        case "failed" if path:
            # What made the loss no number is in the weights: they were not kept.
            return f"Failed at step {event['step']:,}. Its curves up to there: {path}"
    return f"{event['status'].capitalize()} at step {event['step']:,}. {kept}"


class _Signals:
    """SIGINT and SIGTERM from now on: each ends the process within GRACE_SECONDS, whatever the main thread waits for,
    with 128 + the number of the first that came, which is `number`.

    Before there is a run it ends at once. A run is stopped and saved first; one that needs longer for that is left as
    it was last saved. They are not given back: a second Ctrl-C would print a traceback while the interpreter ends.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._run: Run | None = None
        self._passed_on, self._saved, self._done = threading.Event(), threading.Event(), threading.Event()
        # The system writes into it at once; a handler in Python would wait until the main thread comes back to Python.
        self._came, filled = socket.socketpair()
        filled.setblocking(False)
        self._filled = filled
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._take)
        signal.set_wakeup_fd(filled.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._wait, name="signals", daemon=True).start()

    def stop(self, run: Run) -> None:
        """From now on a signal stops this run."""
        self._run = run

    def settle(self) -> None:
        """Wait until a signal that came has been passed on: a run that it found queued is saved by that thread."""
        if self.number and self._run:
            self._passed_on.wait()

    def done(self) -> None:
        """The command has come to its end by itself: it needs nobody to end it."""
        self._done.set()

    def _take(self, number: int, _: object) -> None:
        self.number = self.number or number

    def _wait(self) -> None:
        number = 0
        while number not in (signal.SIGINT, signal.SIGTERM):
            number = self._came.recv(1)[0]
        end = time.monotonic() + GRACE_SECONDS
        self.number = self.number or number
        run = self._run
        if run is not None:
            # Not in this thread: to save a run that was queued, or to get at its lock, may take long.
            threading.Thread(target=self._pass_on, args=(run,), name="stop", daemon=True).start()
            if not self._done.wait(end - time.monotonic()):
                _complain_at_once(
                    f"{run.identity} was stopped and saved, but nobody has read all of its output."
                    if self._saved.is_set()
                    else f"{run.identity} had not stopped in time and was ended: it is as it was last saved."
                )
        if not self._done.is_set():
            os._exit(128 + self.number)

    def _pass_on(self, run: Run) -> None:
        run.stop()
        self._passed_on.set()
        while not _ended(run):
            pass
        self._saved.set()


def _complain_at_once(sentence: str) -> None:
    """On the error stream, where it takes it without a wait."""
    with suppress(OSError, ValueError):
        if select.select([], [2], [], 0)[1]:
            os.write(2, f"{sentence}\n".encode())


# predict


def _add_predict(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "One digit an image, dark on light or light on dark. Exit status: 0 all images were read, 1 some could not be, "
        "2 arguments that cannot be used."
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="a PNG or JPEG file")
    parser.add_argument(
        "--checkpoint", metavar="NAME|PATH", help="the network that reads, other than the first that is shipped"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line for every image")
    parser.set_defaults(command=predict)


def predict(options: argparse.Namespace) -> int:
    """Print what the network reads in each image; returns 0, or 1 where some could not be read. Raises UnusableError
    and OutputError.
    """
    from lib import calibration, checkpoints, dataset, photos, predict

    try:
        network = checkpoints.network(_checkpoint(options.checkpoint))
        found = calibration.calibrate(network, dataset.load())
    except (checkpoints.CheckpointError, dataset.DatasetError) as error:
        raise UnusableError(str(error)) from error
    status = 0
    for name in options.images:
        try:
            with regular_file.opened(name) as file:
                content = file.read(photos.MAX_BYTES + 1) or b""
            prediction = predict.predict(network, photos.photo_to_image(content), found.temperature, found.known)
        except (photos.PhotoError, OSError) as error:
            status = 1
            problem = (
                f"It cannot be opened ({error.strerror}): check its name." if isinstance(error, OSError) else str(error)
            )
            if options.json:
                _say(_json({"file": name, "error": problem}))
            else:
                _complain(f"{visible(name)}: {problem}")
            continue
        _say(_prediction_line(name, prediction, options.json))
    return status


def _prediction_line(name: str, prediction: Prediction, as_json: bool) -> str:
    if not as_json:
        doubt = "" if prediction.is_confident else ", uncertain"
        return (
            f"{visible(name)}: reads {prediction.digit} with a probability of {percent(prediction.confidence)}{doubt}"
        )
    return _json(
        {
            "file": name,
            "digit": prediction.digit,
            "certain": prediction.is_confident,
            "confidence": prediction.confidence,
            "novelty": prediction.ood_percentile,
            "entropy": prediction.entropy,
            "probabilities": prediction.probabilities,
        }
    )


def _checkpoint(name: str | None) -> Checkpoint:
    """The one of that name or file, else the first that is shipped and can be read. Raises CheckpointError and
    UnusableError.
    """
    from lib import checkpoints

    if name is None:
        for path in checkpoints.shipped():
            with suppress(checkpoints.CheckpointError):
                found = checkpoints.load(path)
                if found.weights:
                    return found
        raise UnusableError("There is no network to ask: checkpoints/ is empty. Restore it from the project.")
    if name.endswith(checkpoints.SUFFIX):
        return checkpoints.load(Path(name))
    found_paths = {path.stem: path for path in reversed(checkpoints.paths())}
    if name not in found_paths:
        raise UnusableError(f"There is no checkpoint {name}: name one of {', '.join(sorted(found_paths))}, or a file.")
    return checkpoints.load(found_paths[name])


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Ctrl-C ends what installs nothing of its own without a traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    status = main()
    if status > 128:
        # A signal has ended it. Everything is saved and printed, and the interpreter's own end takes seconds where
        # torch is half imported or the machine is busy.
        os._exit(status)
    sys.exit(status)
