"""Accuracy, confusion matrix and calibration of predictions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.data.dataset import Dataset, normalize
from lib.evaluation.metrics import Evaluation, evaluate
from lib.evaluation.proportion import Proportion
from tests.measure import accuracy_on, shipped_network


@given(st.lists(st.tuples(st.integers(0, 9), st.lists(st.floats(-8, 8), min_size=10, max_size=10)), min_size=1))
@settings(max_examples=60)
def test_an_evaluation_agrees_with_loops(images: list[tuple[int, list[float]]]) -> None:
    labels = torch.tensor([label for label, _ in images])
    probabilities = torch.softmax(torch.tensor([logits for _, logits in images]), 1)
    found = Evaluation(probabilities, labels)
    numbers = probabilities.numpy()
    confusion = np.zeros((10, 10), int)
    errors = []
    for number, label in enumerate(labels.tolist()):
        predicted = int(numbers[number].argmax())
        confusion[label, predicted] += 1
        if predicted != label:
            errors.append((numbers[number, label], number))
    assert (found.confusion.numpy() == confusion).all()
    assert found.errors == [number for _, number in sorted(errors)]
    for label in range(10):
        assert found.by_class[label] == Proportion(int(confusion[label, label]), int(confusion[label].sum()))
        for predicted in range(10):
            cell = found.cell(label, predicted)
            assert len(cell) == confusion[label, predicted]
            assert [numbers[n, label] for n in cell] == sorted(numbers[n, label] for n in cell)
    error = 0.0
    for number, bin_ in enumerate(found.calibration):
        inside = [
            n for n in range(len(numbers)) if number / 10 < float(np.float64(numbers[n].max())) <= (number + 1) / 10
        ]
        assert bin_.accuracy.count == len(inside)
        if inside:
            confidence = np.mean([np.float64(numbers[n].max()) for n in inside])
            accuracy = np.mean([numbers[n].argmax() == labels[n].item() for n in inside])
            assert bin_.confidence == pytest.approx(confidence)
            assert bin_.accuracy.share == pytest.approx(accuracy)
            error += len(inside) / len(numbers) * abs(accuracy - confidence)
    assert found.calibration_error == pytest.approx(error, abs=1e-9)


def test_an_evaluation_of_five_images_by_hand() -> None:
    """One image, a 3, is misclassified; the probability of its label is 0.2."""
    rows = [(7, 7, 0.95), (3, 5, 0.75), (3, 3, 0.75), (0, 0, 0.95), (1, 1, 0.55)]
    probabilities = torch.full((5, 10), 0.0)
    for number, (label, predicted, confidence) in enumerate(rows):
        probabilities[number] = (1 - confidence) / 9
        probabilities[number, predicted] = confidence
        if label != predicted:
            probabilities[number, label] = 0.2
    found = Evaluation(probabilities, torch.tensor([label for label, _, _ in rows]))
    assert found.errors == [1]
    assert float(found.label_probability[1]) == pytest.approx(0.2)
    assert int(found.confusion[3, 5]) == 1
    assert found.accuracy == Proportion(4, 5)
    # Accuracy of the bins: 1 at 0.55, 0.5 at 0.75, 1 at 0.95. (1 · 0.45 + 2 · 0.25 + 2 · 0.05) / 5.
    assert found.calibration_error == pytest.approx(0.21)
    assert [b.accuracy.count for b in found.calibration] == [0, 0, 0, 0, 0, 1, 0, 2, 0, 2]


def test_a_network_is_evaluated_in_batches_without_changing_the_threads(mnist: Dataset) -> None:
    network = shipped_network()
    images, labels = mnist.test_images[:2000], mnist.test_labels[:2000]
    before = torch.get_num_threads()
    found = evaluate(network, network.architecture, images, labels)
    assert torch.get_num_threads() == before
    assert found.accuracy.share == accuracy_on(network, images, labels)
    torch.testing.assert_close(found.probabilities.sum(1), torch.ones(2000))
    with torch.no_grad():
        alone = torch.softmax(network(normalize(images[17:18])), 1)[0]
    torch.testing.assert_close(found.probabilities[17], alone, atol=1e-5, rtol=1e-4)
