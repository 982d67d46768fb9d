"""Sentences and numbers of the Train page about a run."""

from __future__ import annotations

import sys

from lib.design.notation import notation
from lib.design.recipe import Recipe, differences
from lib.runs.training_run import Run, RunStatus
from lib.text.untrusted_text import escaped
from lib.training.time_estimate import duration, epoch_seconds
from lib.training.trainer import EpochMetrics
from lib.ui.cache import run_manager
from lib.ui.url_state import TEST_IMAGES
from lib.ui.warm_up import machine_profile


def reported_accuracy(epoch: EpochMetrics) -> tuple[float, int]:
    """Return the accuracy to report and its number of images: of the test images, if they were measured."""
    if epoch.test_accuracy is not None:
        return epoch.test_accuracy, TEST_IMAGES
    return epoch.validation_accuracy, epoch.validation_images


def progress_text(run: Run, status: RunStatus) -> str:
    """Return where a queued, active or paused run is, in one line."""
    if status.status == "queued":
        before, seconds = len(run_manager().runs_before(run)), _seconds_before(run)
        about = f", about {duration(seconds)}" if seconds else ""
        return f"Waiting for {before} run{'s' * (before != 1)} to end{about}. It starts automatically."
    if not status.step:
        return "Loading the images and building the network…"
    rate, left = status.images_per_second, status.seconds_left
    parts = [f"Epoch {status.epoch} of {run.recipe.epochs}", f"step {status.step:,} of {status.steps_total:,}"]
    if status.status in ("stopping", "pausing"):
        parts.append(f"{status.status} after this batch")
    elif status.status == "paused":
        parts.append("paused")
    elif status.calibrating:
        parts.append("calibrating")
    elif status.measuring is not None:
        parts.append("measuring on the test images" if run.recipe.validation == "test" else "measuring")
    elif rate and left is not None:
        parts += [f"{rate:,.0f} images/s", f"{duration(left)} left"]
    return " · ".join(parts)


def _seconds_before(run: Run) -> float | None:
    """Estimate the seconds until a queued run begins; None if a run before it, and the machine, have no speed yet."""
    profile, seconds = machine_profile(), 0.0
    for other in run_manager().runs_before(run):
        status = other.snapshot(since_step=sys.maxsize)
        if status.seconds_left is not None:
            seconds += status.seconds_left
        elif profile:
            share = 1 - status.step / status.steps_total if status.steps_total else 1.0
            seconds += share * other.recipe.epochs * epoch_seconds(profile, other.architecture, other.recipe)
        else:
            return None
    return seconds


def fork_text(parent: Run, text: str, recipe: Recipe | None) -> str:
    """Return, as Markdown, how the next run will differ from the one that it is forked from.

    `text` is the notation of its network; `recipe` is None if it is not valid.
    """
    changes = differences(parent.recipe, recipe) if recipe else []
    if text != notation(parent.architecture):
        changes.append("the network")
    name = escaped(parent.name)
    if not changes:
        return (
            f"Forked from {name}: same initial weights, same order of the images. Change one thing above and press "
            "Start training; the curves of both runs are shown together."
        )
    if recipe is None or "the network" in changes or parent.recipe.seed != recipe.seed:
        same = "The initial weights differ."
    elif parent.recipe.validation != recipe.validation:
        same = "The initial weights are the same; the training images differ."
    else:
        same = "Initial weights and the order of the images are the same."
    return f"Forked from {name}. Changed: {', '.join(changes)}. {same}"


def owner_text(run: Run) -> str:
    """Return who started a run, as Markdown."""
    return f"browser {escaped(run.owner[:4])}" if run.owner else "the command line"


def origin_text(run: Run) -> str:
    """Return where a run of another owner was started, as Markdown for a sentence."""
    return f"in another browser ({owner_text(run)})" if run.owner else "on the command line"


def started_text(run: Run) -> str:
    """Return the time at which a run was started, as Markdown."""
    return escaped(run.created.replace("T", " ")[:16]) + " UTC"
