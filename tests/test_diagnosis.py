"""Whether a training learns: real trainings that do not, healthy ones, and the limits of the rules."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lib.data.dataset import Dataset, normalize
from lib.design.layers import Architecture
from lib.design.notation import parse
from lib.design.presets import PRESETS, Preset
from lib.design.recipe import RECIPES, Recipe, RecipePreset, learning_rate
from lib.evaluation.network_probe import probe
from lib.nn.network import build
from lib.runs import run_store
from lib.runs.run_record import RunRecord
from lib.runs.training_run import Run
from lib.training.diagnosis import GUESS_LOSS, Diagnosis, NetworkProbe, diagnose, summarize
from lib.training.history import Curves
from lib.training.trainer import EpochMetrics, StepMetrics, Trainer

NORMED = parse("4 4 8 M 12 12 16 M 20v 10v A")
PLAIN = parse("4n 4n 8n M 12n 12n 12n M 12vn 10v A")
CONSTANT = Recipe("Adam", 0.001, "constant", 5, 128, 0.0)
# What `probe` finds of a network that depends on its images and has moved.
HEALTHY_PROBE = NetworkProbe(100, 0.12, (26,) * 9 + (22,), None, 0, 0.5, 1.0, 0.5, 1.0)
EPOCH = EpochMetrics(1, 400, 1.0, 0.6, 1.0, 0.6, 10_000, 0.6, 10.0, 6_000.0)


def curves_of(loss: np.ndarray | list[float], recipe: Recipe = CONSTANT, accuracy: float | None = None) -> Curves:
    """Curves with the recipe's own learning rate; by default as accurate as a loss of that size usually is."""
    losses = np.asarray(loss, dtype=np.float64)
    per_epoch = math.ceil(60_000 / recipe.batch_size)
    rates = np.array([learning_rate(recipe, step, per_epoch) for step in range(len(losses))])
    right = np.clip(1 - losses / GUESS_LOSS * 0.9, 0.0, 1.0) if accuracy is None else np.full(len(losses), accuracy)
    return Curves(1, losses, right, rates)


def diagnosis_of(
    curves: Curves,
    recipe: Recipe = CONSTANT,
    *,
    architecture: Architecture = NORMED,
    found: NetworkProbe | None = HEALTHY_PROBE,
    epochs: tuple[EpochMetrics, ...] = (),
    ended: bool = False,
) -> Diagnosis | None:
    return diagnose(architecture, recipe, summarize(recipe, curves), epochs, found, ended=ended)


def kind_of(*arguments: object, **options: object) -> str | None:
    diagnosis = diagnosis_of(*arguments, **options)  # type: ignore[arg-type]
    return diagnosis.kind if diagnosis else None


# Real trainings

Train = Callable[[str, Recipe, int], Run]


@pytest.fixture(scope="module")
def part(mnist: Dataset) -> Dataset:
    """A fifth of MNIST, and few test images."""
    return Dataset(
        mnist.train_images[:12_000], mnist.train_labels[:12_000], mnist.test_images[:500], mnist.test_labels[:500]
    )


@pytest.fixture
def train(part: Dataset, tmp_path: Path) -> Train:
    """Train a network for some steps, or to the end for 0, in this thread, as the background thread does."""

    def trained(text: str, recipe: Recipe, steps: int) -> Run:
        run = Run(
            RunRecord("run-1", "run-1", "", None, parse(text), recipe, "paused", "2026-11-29T12:00:00+00:00"), tmp_path
        )
        go_on(run, part, steps)
        return run

    return trained


def go_on(run: Run, data: Dataset, steps: int) -> None:
    run.queue(steps=steps)
    run.execute(lambda: data)


def constant(optimizer: str, rate: float, **others: object) -> Recipe:
    return replace(CONSTANT, optimizer=optimizer, learning_rate=rate, **others)  # type: ignore[arg-type]


PLAIN_TEXT, NORMED_TEXT = "4n 4n 8n M 12n 12n 12n M 12vn 10v A", "4 4 8 M 12 12 16 M 20v 10v A"
# Network, recipe, steps, causes that are right.
NOT_LEARNING: dict[str, tuple[str, Recipe, int, set[str]]] = {
    "SGD at 3 without norm": (PLAIN_TEXT, constant("SGD", 3.0), 150, {"dead units"}),
    "SGD at 1 without norm": (PLAIN_TEXT, constant("SGD", 1.0), 150, {"dead units"}),
    "Adam at 0.3 without norm": (PLAIN_TEXT, constant("Adam", 0.3), 150, {"dead units"}),
    "Adam at 0.05 without norm": (PLAIN_TEXT, constant("Adam", 0.05), 150, {"dead units"}),
    "single images, SGD at 0.1": (PLAIN_TEXT, constant("SGD", 0.1, batch_size=1), 2500, {"dead units"}),
    "SGD at 0.000001": (NORMED_TEXT, constant("SGD", 1e-6), 310, {"low learning rate"}),
    "Adam at 0.000001": (NORMED_TEXT, constant("Adam", 1e-6), 310, {"low learning rate"}),
    "Adam at 0.00001 without norm": (PLAIN_TEXT, constant("Adam", 1e-5), 310, {"low learning rate"}),
    "Adam at 10 with norm": (NORMED_TEXT, constant("Adam", 10.0), 110, {"high learning rate"}),
    "SGD at 5 with tanh": ("4n.tanh M 8n.tanh M 10 A", constant("SGD", 5.0), 110, {"high learning rate"}),
    "20 layers without norm": (f"{'4n ' * 9}M {'4n ' * 9}M 4n 10 A", constant("SGD", 0.01), 310, {"no signal"}),
    "sigmoids": (
        f"{'4n.sigmoid ' * 3}M {'8n.sigmoid ' * 3}M 8n.sigmoid 10 A", constant("SGD", 0.1), 310, {"no signal"}
    ),
    "weight decay with Adam": (NORMED_TEXT, constant("Adam", 0.01, weight_decay=1.0), 350, {"weight decay"}),
    "SGD at 1 with the usual weight decay": (
        "8n 8n 16n M 16n 32n M 10v A",
        constant("SGD", 1.0, weight_decay=0.01),
        469,
        {"high learning rate", "dead units"},
    ),
    "weight decay with SGD": (NORMED_TEXT, constant("SGD", 0.1, weight_decay=1.0), 150, {"weight decay"}),
    "ReLU after the logits": ("8 M 16 M 10v R A", constant("Adam", 1.0), 150, {"dead outputs"}),
    "dropout of 90 % without norm": (
        "norm=none dropout=90 | 4 4 M 8 8 M 8 10 A", constant("AdamW", 0.001), 310, {"dropout"}
    ),
    "instance norm after the logits": ("4 M 8 M 10 in A", constant("AdamW", 0.01), 310, {"constant outputs"}),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", NOT_LEARNING)
def test_a_real_training_that_does_not_learn_has_its_cause(train: Train, case: str) -> None:
    text, recipe, steps, causes = NOT_LEARNING[case]
    run = train(text, recipe, steps)
    snapshot = run.snapshot()
    assert snapshot.status == "paused", snapshot.message
    assert snapshot.diagnosis is not None
    assert snapshot.diagnosis.kind in causes
    assert snapshot.saved is not None
    # The file has what the diagnosis needs.
    assert Run(run_store.load(snapshot.saved), snapshot.saved.parent).snapshot().diagnosis == snapshot.diagnosis


@pytest.mark.slow
def test_what_was_learned_and_forgotten_is_named(train: Train, part: Dataset) -> None:
    """The learning rate is raised far too high once the network has learned."""
    run = train(NORMED_TEXT, constant("AdamW", 0.01, batch_size=64), 150)
    assert run.snapshot().diagnosis is None
    assert run.snapshot().curves.train_accuracy[-20:].mean() > 0.7
    run.set_lr_scale(1000)
    go_on(run, part, 300)
    diagnosis = run.snapshot().diagnosis
    assert diagnosis is not None
    assert diagnosis.kind in ("high learning rate", "dead units")
    assert diagnosis.learning_rate == 0.01


@pytest.mark.slow
def test_dropout_before_batch_norm_is_named_at_the_end(train: Train) -> None:
    run = train("dropout=80 | 4 4 M 8 8 M 16 10 A", constant("AdamW", 0.01, epochs=4), 0)
    snapshot = run.snapshot()
    assert snapshot.status == "finished"
    assert snapshot.diagnosis is not None
    assert snapshot.diagnosis.kind == "batch norm"
    assert "Dropout" in snapshot.diagnosis.remedy


@pytest.mark.slow
@pytest.mark.parametrize("preset", RECIPES, ids=lambda preset: preset.title)
def test_no_preset_recipe_has_a_diagnosis_in_its_first_steps(mnist: Dataset, preset: RecipePreset) -> None:
    """On its own course: with its warm-up over all of MNIST, far beyond the patience of the rules."""
    architecture = parse(preset.network or NORMED_TEXT)
    assert first_diagnosis(Trainer(architecture, preset.recipe, mnist), mnist, 350) is None


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.title)
def test_no_preset_network_has_a_diagnosis(small: Dataset, preset: Preset) -> None:
    """Without any patience: each network learns within 350 steps of 16 images, a large one within 100."""
    trainer = Trainer(parse(preset.text), Recipe("AdamW", 0.001, "constant", epochs=40, batch_size=16), small)
    large = sum(parameter.numel() for parameter in trainer.network.parameters()) > 100_000
    assert first_diagnosis(trainer, small, 130 if large else 350) is None


def first_diagnosis(trainer: Trainer, data: Dataset, steps: int) -> Diagnosis | None:
    """The first diagnosis of a training within its first steps, asked for every ten steps, always with a probe."""
    recipe, losses = trainer.recipe, list[StepMetrics]()
    for event in trainer:
        if not isinstance(event, StepMetrics):
            continue
        losses.append(event)
        if event.step % 10 == 0:
            columns = (
                np.array([getattr(metrics, name) for metrics in losses])
                for name in ("train_loss", "train_accuracy", "learning_rate")
            )
            found = probe(trainer.network, data.train_images, data.train_labels, step=event.step, seed=recipe.seed)
            curves = Curves(1, *columns)
            diagnosis = diagnosis_of(curves, recipe, architecture=trainer.architecture, found=found)
            if diagnosis or event.step >= steps:
                return diagnosis
    return None


# The rules


def healthy_curves(
    recipe: Recipe, start: float, takeoff: float, fall: int, end: float, noise: float, seed: int
) -> Curves:
    """A loss that stays at `start`, and falls to `end` within `fall` steps after `takeoff` steps at the full rate."""
    empty = curves_of(np.zeros(2500), recipe)
    done = np.minimum(empty.learning_rate / min(recipe.learning_rate, 0.001), 1).cumsum()
    since = np.maximum(np.arange(2500) - np.searchsorted(done, takeoff), 0)
    loss = end + (start - end) * np.exp(-3 * since / fall)
    loss *= np.exp(noise * np.random.default_rng(seed).standard_normal(2500))
    return curves_of(loss, recipe)


@settings(max_examples=60)
@given(
    recipe=st.builds(
        Recipe,
        optimizer=st.sampled_from(["Adam", "AdamW"]),
        learning_rate=st.floats(1e-4, 0.1),
        schedule=st.sampled_from(["constant", "one-cycle", "step", "plateau"]),
        epochs=st.integers(2, 40),
        batch_size=st.integers(32, 256),
    ),
    start=st.floats(2.2, 2.5),
    takeoff=st.floats(0, 150),
    fall=st.integers(5, 100),
    end=st.floats(0.01, 0.8),
    noise=st.floats(0, 0.25),
    seed=st.integers(0, 100),
)
def test_a_loss_that_falls_after_the_warm_up_has_no_diagnosis(
    recipe: Recipe, start: float, takeoff: float, fall: int, end: float, noise: float, seed: int
) -> None:
    curves = healthy_curves(recipe, start, takeoff, fall, end, noise, seed)
    for steps in (*range(10, 700, 30), 1000, 2500):
        assert diagnosis_of(first(curves, steps), recipe) is None, steps
    assert diagnosis_of(curves, recipe, ended=True) is None


@settings(max_examples=40)
@given(plateau=st.integers(330, 1500), fall=st.integers(5, 100), end=st.floats(0.01, 0.8), ended=st.booleans())
def test_a_diagnosis_is_withdrawn_when_the_loss_falls_after_all(
    plateau: int, fall: int, end: float, ended: bool
) -> None:
    since = np.maximum(np.arange(plateau + 4 * fall + 20) - plateau, 0)
    curves = curves_of(end + (2.3 - end) * np.exp(-3 * since / fall))
    assert diagnosis_of(first(curves, plateau)) is not None
    assert diagnosis_of(curves, ended=ended) is None


def first(curves: Curves, steps: int) -> Curves:
    return Curves(1, curves.train_loss[:steps], curves.train_accuracy[:steps], curves.learning_rate[:steps])


GUESSING = curves_of([2.303] * 400)


def test_it_waits_for_the_first_steps_but_not_at_the_end_of_the_recipe() -> None:
    assert diagnosis_of(first(GUESSING, 290)) is None
    assert kind_of(first(GUESSING, 310)) == "guessing"
    assert kind_of(first(GUESSING, 20), ended=True) == "guessing"
    assert diagnosis_of(first(GUESSING, 9), ended=True) is None
    assert diagnosis_of(first(GUESSING, 0)) is None
    # Outputs that are the same for every image need less patience.
    dead = replace(HEALTHY_PROBE, dead_layer=2, dead_logits=10, variation=0.0)
    assert kind_of(first(GUESSING, 110), found=dead) == "dead units"
    assert diagnosis_of(first(GUESSING, 90), found=dead) is None


def test_a_step_of_the_warm_up_counts_as_its_part_of_the_learning_rate() -> None:
    slow = Recipe("Adam", 0.001, "one-cycle", 19)
    losses = [2.303] * 3000
    steps = [step for step in range(50, 3000, 50) if diagnosis_of(curves_of(losses[:step], slow), slow)]
    # The sum of the learning rates of the first 1,360 steps is that of 300 at the peak.
    assert 1300 < steps[0] <= 1400
    assert steps == list(range(steps[0], 3000, 50))


def test_small_batches_are_judged_by_as_many_images() -> None:
    single = replace(CONSTANT, batch_size=1)
    assert diagnosis_of(curves_of([2.303] * 1990, single), single) is None
    assert kind_of(curves_of([2.303] * 2000, single), single) == "guessing"


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5, 0.9])
def test_label_smoothing_moves_the_lowest_loss_but_not_that_of_guessing(smoothing: float) -> None:
    """Torch's own loss of a network that guesses, and of one that is usually right."""
    recipe, labels = replace(CONSTANT, label_smoothing=smoothing), torch.arange(1000) % 10
    guess = F.cross_entropy(torch.zeros(1000, 10), labels, label_smoothing=smoothing).item()
    assert guess == pytest.approx(GUESS_LOSS, abs=1e-5)
    targets = (1 - smoothing) * F.one_hot(labels, 10) + smoothing / 10
    learned = F.cross_entropy(0.9 * (targets + 1e-3).log(), labels, label_smoothing=smoothing).item()
    assert kind_of(curves_of([guess] * 400, recipe, 0.1), recipe) == "guessing"
    # A label smoothing of 0.9 leaves 0.04 between guessing and the lowest loss.
    assert learned < GUESS_LOSS - 0.03
    assert diagnosis_of(curves_of([learned] * 2000, recipe, 0.1), recipe) is None


def test_a_raised_learning_rate_gets_its_own_time() -> None:
    rates = np.full(410, 0.001)
    rates[400:] = 0.1
    curves = Curves(1, np.full(410, 2.303), np.full(410, 0.1), rates)
    sgd = constant("SGD", 0.001)

    def judged(scale: float, curves: Curves) -> Diagnosis | None:
        summary = summarize(sgd, curves, scale)
        return diagnose(NORMED, sgd, summary, (), HEALTHY_PROBE, ended=False, lr_scale=scale)

    assert judged(1.0, first(curves, 400)) is not None
    assert judged(100.0, curves) is None
    assert judged(0.1, curves) is not None


def test_a_run_of_an_earlier_version_has_no_probe_and_still_a_diagnosis() -> None:
    assert kind_of(GUESSING, found=None) == "guessing"
    low = constant("SGD", 1e-5)
    assert kind_of(curves_of([2.303] * 400, low), low, found=None) == "low learning rate"
    assert kind_of(curves_of([50.0] * 50 + [2.303] * 400), found=None) == "high learning rate"
    assert kind_of(curves_of([0.5] * 200 + [2.303] * 200), found=None) == "high learning rate"
    assert kind_of(curves_of([3.0] * 400), found=None) == "high learning rate"


def test_a_loss_that_keeps_jumping_is_named_until_it_is_calm() -> None:
    jumping = [2.3] * 20 + [0.3] * 100 + [2.3] * 20 + [0.3] * 100 + [2.4] * 20 + [0.3] * 60
    assert kind_of(curves_of(jumping)) == "high learning rate"
    assert "2 times" in str(diagnosis_of(curves_of(jumping)))
    assert diagnosis_of(curves_of(jumping + [0.3] * 400)) is None
    # The fall at the beginning is no jump, and one jump is not enough.
    assert diagnosis_of(curves_of(jumping[:200])) is None


def test_a_loss_that_falls_very_slowly_is_named_if_the_weights_hardly_moved() -> None:
    falling, sgd = np.linspace(2.3, 1.9, 700), constant("SGD", 1e-4)
    hardly = replace(HEALTHY_PROBE, accuracy=0.4, weight_change=0.02)
    diagnosis = diagnosis_of(curves_of(falling, sgd), sgd, found=hardly)
    assert diagnosis is not None
    assert (diagnosis.kind, diagnosis.learning_rate) == ("low learning rate", 0.02)
    assert diagnosis_of(curves_of(falling[:500], sgd), sgd, found=hardly) is None
    assert diagnosis_of(curves_of(falling, sgd), sgd, found=replace(hardly, weight_change=0.3)) is None
    assert diagnosis_of(curves_of(falling, sgd), sgd, found=replace(hardly, accuracy=0.9)) is None


def test_dropout_that_hides_what_was_learned_is_no_failure_and_one_that_does_not_is_named() -> None:
    network = parse("norm=none dropout=90 | 8 M 16 M 10 A")
    assert diagnosis_of(GUESSING, architecture=network, found=replace(HEALTHY_PROBE, accuracy=0.8)) is None
    diagnosis = diagnosis_of(GUESSING, architecture=network)
    assert diagnosis is not None
    assert diagnosis.kind == "dropout"
    assert "90 %" in diagnosis.sentence


def test_one_digit_for_every_image_is_named() -> None:
    diagnosis = diagnosis_of(GUESSING, found=replace(HEALTHY_PROBE, predictions=(0, 0, 0, 250, *[0] * 6)))
    assert diagnosis is not None
    assert diagnosis.kind == "one class"
    assert "It predicts 3 for every image." in diagnosis.sentence


def test_shrunk_weights_have_the_cause_that_is_out_of_the_ordinary() -> None:
    shrunk = replace(HEALTHY_PROBE, weight_norm=0.001)
    for rate, decay, kind, remedy in (
        (1.0, 0.01, "high learning rate", "Start again with 0.1."),
        (0.02, 1.0, "weight decay", "Try a weight decay of 0.01."),
        (0.02, 0.01, "weight decay", "Try a weight decay of 0.001."),
    ):
        recipe = constant("SGD", rate, weight_decay=decay)
        found = diagnosis_of(curves_of([GUESS_LOSS] * 600, recipe, accuracy=0.1), recipe, found=shrunk)
        assert found is not None
        assert (found.kind, found.remedy) == (kind, remedy)


def test_batch_norm_is_blamed_after_two_such_epochs_or_at_the_end() -> None:
    curves = curves_of([2.3] * 100 + [0.5] * 300)
    other = replace(EPOCH, validation_accuracy=0.1, validation_loss=9.0)
    assert diagnosis_of(curves, epochs=(other,)) is None
    assert kind_of(curves, epochs=(other,), ended=True) == "batch norm"
    assert kind_of(curves, epochs=(other, other)) == "batch norm"
    assert diagnosis_of(curves, epochs=(other, EPOCH), ended=True) is None
    assert diagnosis_of(curves, epochs=(other, other), architecture=PLAIN) is None


@given(
    optimizer=st.sampled_from(["SGD", "Adam", "AdamW"]),
    rate=st.floats(1e-6, 10),
    scale=st.sampled_from([0.001, 0.1, 1.0, 1000.0]),
    architecture=st.sampled_from([NORMED, PLAIN]),
    loss=st.sampled_from([2.3, 2.303, 40.0]),
    found=st.sampled_from([None, HEALTHY_PROBE, replace(HEALTHY_PROBE, weight_change=1e-5)]),
)
def test_a_suggested_learning_rate_is_one_that_a_recipe_may_have(
    optimizer: str, rate: float, scale: float, architecture: Architecture, loss: float, found: NetworkProbe | None
) -> None:
    recipe = constant(optimizer, rate)
    curves = Curves(1, np.full(400, loss), np.full(400, 0.1), np.full(400, rate * scale))
    diagnosis = diagnose(architecture, recipe, summarize(recipe, curves, scale), (), found, ended=True, lr_scale=scale)
    assert diagnosis is not None
    assert diagnosis.learning_rate is not None
    replace(recipe, learning_rate=diagnosis.learning_rate)
    if diagnosis.kind == "high learning rate":
        assert diagnosis.learning_rate <= max(rate * scale / 5, 1e-6)
    if diagnosis.kind == "low learning rate":
        assert diagnosis.learning_rate >= min(rate * scale * 5, 10)


# The probe


def test_the_probe_of_a_network_is_what_torch_computes(mnist: Dataset) -> None:
    network, images, labels = build(PLAIN, 3), mnist.train_images[:200], mnist.train_labels[:200]
    found = probe(network, images, labels, step=7, seed=3)
    assert found is not None
    with torch.no_grad():
        logits = network(normalize(images))
    assert (found.step, found.dead_layer, found.dead_logits) == (7, None, 0)
    assert found.accuracy == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert found.predictions == tuple(int((logits.argmax(1) == digit).sum()) for digit in range(10))
    assert found.logit_size == pytest.approx(float(np.sqrt(np.mean(logits.numpy() ** 2))), rel=1e-5)
    assert found.variation == pytest.approx(
        float(np.sqrt(np.mean(logits.numpy().std(0) ** 2))) / found.logit_size, rel=1e-3
    )
    assert (found.weight_change, found.weight_norm) == (0, 1)


def test_the_probe_sees_dead_units_shrunk_weights_and_what_is_no_number(mnist: Dataset) -> None:
    images, labels = mnist.train_images[:100], mnist.train_labels[:100]
    network = build(PLAIN, 0)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:
                parameter.mul_(0.25)
        # The third layer of the notation, counted from 0, is a pool; the fourth a convolution.
        convolutions = [module for module in network if isinstance(module, torch.nn.Conv2d)]
        assert convolutions[3].bias is not None
        convolutions[3].bias.fill_(-100)
    found = probe(network, images, labels, step=1, seed=0)
    assert found is not None
    assert (found.dead_layer, found.dead_logits, found.variation) == (4, 10, 0)
    assert found.weight_norm == pytest.approx(0.25)
    assert found.weight_change == pytest.approx(0.75)
    with torch.no_grad():
        convolutions[-1].weight.fill_(math.inf)
    assert probe(network, images, labels, step=1, seed=0) is None


def test_a_training_that_is_probed_stays_bit_equal(small: Dataset) -> None:
    architecture, recipe = parse("4 D20 M 8 M 10 A"), Recipe(epochs=1, batch_size=100)
    expected = [event for event in Trainer(architecture, recipe, small) if isinstance(event, StepMetrics)]
    probed = Trainer(architecture, recipe, small)
    events = []
    for event in probed:
        if isinstance(event, StepMetrics):
            events.append(event)
            probe(probed.network, small.train_images, small.train_labels, step=event.step, seed=0)
    assert events == expected
