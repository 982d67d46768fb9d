"""The training loop on real digits."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import get_args

import pytest
import torch
from torch.nn import functional as F

from lib.data.dataset import Dataset, normalize
from lib.data.handwriting import sample_handwriting
from lib.data.outliers import sample_outliers
from lib.design.notation import parse
from lib.design.presets import PRESETS, Preset
from lib.design.recipe import RECIPES, Augmentation, Optimizer, Recipe, RecipePreset
from lib.nn.network import build
from lib.training.trainer import (
    DivergenceError,
    EpochMetrics,
    EvaluationProgress,
    Event,
    StepMetrics,
    Trainer,
    TrainingState,
    held_out,
    split,
)
from tests.measure import accuracy_on

ARCHITECTURE = parse("8 M 16 M 10 A")
RECIPE = Recipe(epochs=2, batch_size=64)


def run(recipe: Recipe, data: Dataset) -> tuple[list[Event], dict[str, torch.Tensor]]:
    training = Trainer(ARCHITECTURE, recipe, data)
    return list(training), training.weights()


def without_times(events: list[Event]) -> list[Event]:
    return [
        dataclasses.replace(event, seconds=0.0, images_per_second=0.0) if isinstance(event, EpochMetrics) else event
        for event in events
    ]


def test_events_count_every_batch_and_every_image(small: Dataset) -> None:
    events, _ = run(RECIPE, small)
    steps = [event for event in events if isinstance(event, StepMetrics)]
    epochs = [event for event in events if isinstance(event, EpochMetrics)]
    assert [step.step for step in steps] == list(range(1, 2 * 16 + 1))
    assert sum(step.images for step in steps) == 2000
    assert [epoch.epoch for epoch in epochs] == [1, 2]
    assert [epoch.step for epoch in epochs] == [16, 32]
    measured = [event for event in events if isinstance(event, EvaluationProgress)]
    assert [event.seen for event in measured] == [250, 500] * 2
    first = steps[:16]
    assert epochs[0].train_loss == pytest.approx(sum(s.train_loss * s.images for s in first) / 1000)
    assert epochs[0].train_accuracy == pytest.approx(sum(s.train_accuracy * s.images for s in first) / 1000)


@pytest.mark.parametrize("optimizer", get_args(Optimizer))
def test_the_compiled_pass_trains_as_the_modules_do(optimizer: Optimizer, small: Dataset) -> None:
    """Until rounding, which training amplifies, makes them differ."""
    architecture = parse("4 8b M 8k1 add( 8v 8p2n / ) M 16f 10f")
    recipe = Recipe(optimizer, 0.002, "constant", epochs=1, batch_size=50, weight_decay=0.01)
    compiled, plain = Trainer(architecture, recipe, small), Trainer(architecture, recipe, small)
    assert compiled._path is not None
    plain._path = None
    for _ in range(8):
        ours, torchs = next(compiled), next(plain)
        assert isinstance(ours, StepMetrics)
        assert isinstance(torchs, StepMetrics)
        assert ours.train_loss == pytest.approx(torchs.train_loss, rel=5e-3)
    ours_end, torchs_end = (
        torch.cat([parameter.detach().flatten() for parameter in some.network.parameters()])
        for some in (compiled, plain)
    )
    # Most of a step of Adam is the sign of a gradient, which may differ where that is almost 0.
    assert float((ours_end - torchs_end).norm()) < 0.05 * float(torchs_end.norm())


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.title)
def test_every_preset_trains(preset: Preset, small: Dataset) -> None:
    recipe = Recipe("AdamW", 0.004, "constant", epochs=40, batch_size=16)
    training = Trainer(parse(preset.text), recipe, small)
    network = training.network
    before = {name: tensor.clone() for name, tensor in network.named_parameters()}
    losses: list[float] = []
    # A network without norm may need many steps before its loss falls.
    for event in training:
        if isinstance(event, StepMetrics):
            losses.append(event.train_loss)
        if len(losses) > 20 and sum(losses[-10:]) < 0.8 * sum(losses[:10]):
            break
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    assert all(not torch.equal(tensor, before[name]) for name, tensor in network.named_parameters())


def test_it_learns_and_reports_what_the_network_then_scores(small: Dataset) -> None:
    training = Trainer(ARCHITECTURE, dataclasses.replace(RECIPE, epochs=8), small)
    *_, last = training
    network = training.network
    assert isinstance(last, EpochMetrics)
    assert last.validation_accuracy > 0.8
    assert last.validation_images == len(small.test_images)
    assert accuracy_on(network, small.test_images, small.test_labels) == last.validation_accuracy == last.test_accuracy
    with torch.inference_mode():
        loss = F.cross_entropy(network(normalize(small.test_images)), small.test_labels)
    assert last.validation_loss == pytest.approx(float(loss), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("preset", RECIPES, ids=lambda preset: preset.title)
def test_the_same_seed_gives_the_same_run_bit_by_bit(small: Dataset, preset: RecipePreset) -> None:
    recipe = dataclasses.replace(preset.recipe, epochs=2)
    first, weights = run(recipe, small)
    torch.rand(7)
    second, again = run(recipe, small)
    assert without_times(first) == without_times(second)
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    other, _ = run(dataclasses.replace(recipe, seed=recipe.seed + 1), small)
    assert without_times(first) != without_times(other)


def test_one_plain_sgd_step_is_the_one_worked_by_hand(small: Dataset) -> None:
    """Nesterov's first step is lr (1 + momentum) times the gradient."""
    data = Dataset(small.train_images[:32], small.train_labels[:32], small.test_images[:10], small.test_labels[:10])
    recipe = Recipe("SGD", 0.1, "constant", 1, 32, 0.0)
    training, reference = Trainer(ARCHITECTURE, recipe, data), build(ARCHITECTURE)
    loss = F.cross_entropy(reference(normalize(data.train_images)), data.train_labels)
    loss.backward()  # type: ignore[no-untyped-call]
    step = next(training)
    assert isinstance(step, StepMetrics)
    assert step.train_loss == pytest.approx(loss.item(), rel=1e-5)
    for trained, start in zip(training.network.parameters(), reference.parameters(), strict=True):
        assert start.grad is not None
        change, expected = trained.data - start.data, -0.19 * start.grad
        # The batch is shuffled, so floating-point sums differ slightly.
        assert float((change - expected).norm()) < 0.02 * float(expected.norm()) + 1e-5


def test_one_cycle_rises_to_the_peak_and_falls_to_nothing(small: Dataset) -> None:
    events, _ = run(dataclasses.replace(RECIPE, epochs=5), small)
    rates = [event.learning_rate for event in events if isinstance(event, StepMetrics)]
    peak = rates.index(max(rates))
    assert max(rates) == pytest.approx(0.02, rel=0.01)
    assert 0.25 < peak / len(rates) < 0.35
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] < 0.001


def test_a_loss_that_is_no_number_ends_the_run_with_the_step_kept(small: Dataset) -> None:
    recipe = Recipe("SGD", 10.0, "constant", 50, 64, 0.0)
    events: list[Event] = []
    with pytest.raises(DivergenceError, match="learning rate of 10 is too high"):
        _collect(Trainer(parse("64n 64n 64n M 64n 64n 10 A"), recipe, small), events)
    last = events[-1]
    assert isinstance(last, StepMetrics)
    assert not math.isfinite(last.train_loss)


def test_closing_the_generator_ends_the_training(small: Dataset) -> None:
    training = Trainer(ARCHITECTURE, RECIPE, small)
    next(training)
    before = training.weights()
    training.close()
    assert list(training) == []
    assert all(torch.equal(before[name], tensor) for name, tensor in training.weights().items())


EPOCH_AND_MORE = 2 * 16 + 5
RESUMED = [
    ("8 M 16 M 10 A", Recipe(epochs=3, batch_size=64, augmentation=Augmentation(10, 0.1, 0.1))),
    ("8 M 16 M 10 A", Recipe("SGD", 0.1, "plateau", 3, 64, 0.001, patience=1, label_smoothing=0.1)),
    (
        "8 M 10 A",
        Recipe(epochs=3, batch_size=64, augmentation=Augmentation(stroke=0.5), outlier_ratio=0.25, synthetic_ratio=0.1),
    ),
    ("8 D20 M 16b M 10 A", Recipe("Adam", 0.01, "step", 3, 64, 0.0, patience=1, validation="held-out")),
    ("bias=off norm=gn2 act=gelu dropout=5c | M 4 add( 4 4x ln ) R M 4g4x 6 10w R A", Recipe(epochs=3, batch_size=64)),
    (
        "M 4.gbn4 cat( 4.in / 4k3x1.ln2d / ) 4xu prelu F N D30 16f.tanh 10f N",
        Recipe("SGD", 0.05, epochs=3, batch_size=60),
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "recipe"), RESUMED, ids=["fused", "plateau", "outliers", "dropout", "residual", "concatenation"]
)
@pytest.mark.parametrize("leave_at", [1, 7, 15, 16, 17, EPOCH_AND_MORE])
def test_a_resumed_training_is_bit_equal_to_an_uninterrupted_one(
    small: Dataset, text: str, recipe: Recipe, leave_at: int
) -> None:
    architecture = parse(text)
    uninterrupted = Trainer(architecture, recipe, small)
    expected = without_times(list(uninterrupted))
    first = Trainer(architecture, recipe, small)
    events: list[Event] = []
    while first.step < leave_at:
        events.append(next(first))
    state = first.state()
    # What the first training does afterwards must not affect the second.
    list(first)
    torch.rand(3)
    second = Trainer(architecture, recipe, small, state)
    events += list(second)
    assert without_times(events) == expected
    for name, tensor in uninterrupted.weights().items():
        assert torch.equal(tensor, second.weights()[name]), name


COMPILED = [
    "D10 4 M 6 D30 D10c M 10 A",
    "norm=before.gn2 | 4k5s2 6k3x1 D20 8g2 M 10 A",
    "4.gbn3 M 6.gbn2.gelu M D20 10u A N",
    "4 M add( N 4x / R D20c 4k1n ) R cat( 4.in / M3s1p1 D10 / ) M D5 16f D30 N 10f",
]


@pytest.mark.parametrize("text", COMPILED)
def test_every_feature_gives_the_same_history_for_a_seed_also_when_resumed(small: Dataset, text: str) -> None:
    """The last batch of an epoch is smaller."""
    data = Dataset(small.train_images[:200], small.train_labels[:200], small.test_images[:50], small.test_labels[:50])
    architecture, recipe = parse(text), Recipe(epochs=2, batch_size=48)
    whole = Trainer(architecture, recipe, data)
    expected = without_times(list(whole))
    torch.rand(5)
    assert without_times(list(Trainer(architecture, recipe, data))) == expected
    for leave_at in (2, 7):
        paused = Trainer(architecture, recipe, data)
        events: list[Event] = []
        while paused.step < leave_at:
            events.append(next(paused))
        state = paused.state()
        list(paused)
        resumed = Trainer(architecture, recipe, data, state)
        events += list(resumed)
        assert without_times(events) == expected
        for name, tensor in whole.weights().items():
            assert torch.equal(tensor, resumed.weights()[name]), name


def test_a_training_resumed_during_evaluation_evaluates_again(small: Dataset) -> None:
    uninterrupted, first = Trainer(ARCHITECTURE, RECIPE, small), Trainer(ARCHITECTURE, RECIPE, small)
    expected = without_times(list(uninterrupted))
    events = [next(first) for _ in range(17)]
    assert isinstance(events[-1], EvaluationProgress)
    events += list(Trainer(ARCHITECTURE, RECIPE, small, first.state()))
    steps = [event for event in without_times(events) if not isinstance(event, EvaluationProgress)]
    assert steps == [event for event in expected if not isinstance(event, EvaluationProgress)]


@pytest.mark.parametrize("is_compiled", [True, False])
def test_a_batch_that_is_aborted_changes_nothing(is_compiled: bool, small: Dataset) -> None:
    """A large network is stopped by an exception within a batch: between any of its parts, in both passes."""
    architecture, recipe = parse("8b M 16b M 10 A"), Recipe(epochs=1, batch_size=250)

    def trainer(state: TrainingState | None = None) -> Trainer:
        made = Trainer(architecture, recipe, small, state)
        if not is_compiled:
            made._path = None
        return made

    expected = without_times(list(trainer()))
    for part in itertools.count():
        training = trainer()
        events: list[Event] = [next(training) for _ in range(2)]
        parts = itertools.count()

        def abort(parts: itertools.count[int] = parts, part: int = part) -> None:
            if next(parts) == part:
                raise KeyboardInterrupt

        training.interrupt_with(abort)
        try:
            next(training)
        except KeyboardInterrupt:
            events += list(trainer(training.state()))
            assert without_times(events) == expected
        else:
            # The batch has no more parts.
            assert part >= 4
            break


def test_a_state_shares_nothing_with_the_training(small: Dataset) -> None:
    training = Trainer(ARCHITECTURE, RECIPE, small)
    next(training)
    state = training.state()
    before = {name: tensor.clone() for name, tensor in {**state.network, **state.optimizer}.items()}
    list(training)
    Trainer(ARCHITECTURE, RECIPE, small, state).__next__()
    assert all(torch.equal(before[name], tensor) for name, tensor in {**state.network, **state.optimizer}.items())
    assert isinstance(state, TrainingState)


def test_the_learning_rate_can_be_changed_during_training(small: Dataset) -> None:
    recipe = Recipe("SGD", 0.01, "constant", 1, 100, 0.0)
    training = Trainer(ARCHITECTURE, recipe, small)
    rates = []
    for event in training:
        if isinstance(event, StepMetrics):
            rates.append(event.learning_rate)
            training.lr_scale = 10.0 if event.step >= 4 else 1.0
    assert rates == pytest.approx([0.01] * 4 + [0.1] * 6)
    slow = Trainer(ARCHITECTURE, dataclasses.replace(recipe, learning_rate=0.001), small)
    slow.lr_scale = 10.0
    assert without_times(list(slow))[0] == without_times(list(Trainer(ARCHITECTURE, recipe, small)))[0]


def test_held_out_images_are_not_trained_on_and_the_test_images_wait_for_the_end(small: Dataset) -> None:
    recipe = Recipe(epochs=2, batch_size=100, validation="held-out")
    parts = split(small, recipe)
    assert len(parts.validation_images) == held_out(1000) == 83
    assert held_out(60_000) == 5_000
    combined = torch.cat([parts.train_images, parts.validation_images]).flatten(1)
    assert sorted(map(bytes, combined.numpy())) == sorted(map(bytes, small.train_images.flatten(1).numpy()))
    again = split(small, dataclasses.replace(recipe, seed=9))
    assert torch.equal(parts.validation_images, again.validation_images)
    training = Trainer(ARCHITECTURE, recipe, small)
    events = list(training)
    first, last = (event for event in events if isinstance(event, EpochMetrics))
    assert first.test_accuracy is None
    assert last.validation_images == 83
    assert last.test_accuracy == accuracy_on(training.network, small.test_images, small.test_labels)
    assert last.validation_accuracy == accuracy_on(training.network, parts.validation_images, parts.validation_labels)
    assert sum(event.images for event in events if isinstance(event, StepMetrics)) == 2 * 917


def test_label_smoothing_is_that_of_torch(small: Dataset) -> None:
    data = Dataset(small.train_images[:64], small.train_labels[:64], small.test_images[:9], small.test_labels[:9])
    step = next(Trainer(ARCHITECTURE, Recipe(batch_size=64, label_smoothing=0.2), data))
    logits = build(ARCHITECTURE).train()(normalize(data.train_images))
    assert isinstance(step, StepMetrics)
    assert step.train_loss == pytest.approx(
        F.cross_entropy(logits, data.train_labels, label_smoothing=0.2).item(), rel=1e-5
    )


@pytest.mark.slow
def test_outliers_make_a_network_less_confident_on_unseen_outliers(small: Dataset) -> None:
    """The metrics count the digits alone."""
    unseen = normalize(
        (sample_outliers(small.test_images[:100].unsqueeze(1) / 255, 200, torch.Generator().manual_seed(99)) * 255)
        .to(torch.uint8)
        .squeeze(1)
    )
    confidence = {}
    for ratio in (0.0, 0.5):
        training = Trainer(ARCHITECTURE, Recipe(epochs=12, batch_size=50, outlier_ratio=ratio), small)
        steps = [event for event in training if isinstance(event, StepMetrics)]
        assert {step.images for step in steps} == {50}
        training.network.eval()
        with torch.inference_mode():
            confidence[ratio] = float(training.network(unseen).softmax(1).amax(1).mean())
        assert accuracy_on(training.network, small.test_images, small.test_labels) > 0.7
    assert confidence[0.5] < confidence[0.0] - 0.2


@pytest.mark.slow
def test_synthetic_digits_improve_the_accuracy_on_unseen_synthetic_digits(small: Dataset) -> None:
    """The metrics count the digits of the data set alone."""
    digits, labels = sample_handwriting(400, torch.Generator().manual_seed(99))
    unseen = (digits[:, 0] * 255).to(torch.uint8)
    accuracy = {}
    for ratio in (0.0, 0.5):
        training = Trainer(
            ARCHITECTURE, Recipe(epochs=12, batch_size=50, synthetic_ratio=ratio, outlier_ratio=ratio / 2), small
        )
        steps = [event for event in training if isinstance(event, StepMetrics)]
        assert {step.images for step in steps} == {50}
        accuracy[ratio] = accuracy_on(training.network, unseen, labels)
        assert accuracy_on(training.network, small.test_images, small.test_labels) > 0.7
    assert accuracy[0.5] > accuracy[0.0] + 0.15


def _collect(training: Trainer, into: list[Event]) -> None:
    for event in training:
        into.append(event)
