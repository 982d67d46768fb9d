"""Predictions of networks, and how they are described."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from lib.data.dataset import Dataset
from lib.design.notation import parse
from lib.evaluation.calibration import UNCALIBRATED
from lib.inference.loaded_model import LoadedModel
from lib.inference.predict import Prediction, predict, prediction_caption, prediction_heading
from lib.nn.network import assembled, build
from tests.measure import shipped_network


def test_a_prediction_is_the_softmax(mnist: Dataset) -> None:
    network = shipped_network()
    prediction = predict(network, mnist.test_images[0])
    assert prediction.digit == int(mnist.test_labels[0]) == 7
    assert sum(prediction.probabilities) == pytest.approx(1)
    assert prediction.confidence == max(prediction.probabilities) > 0.9


def test_entropy_is_between_0_bits_and_those_of_ten_equal_probabilities() -> None:
    assert Prediction((1.0,) + (0.0,) * 9).entropy == 0
    assert Prediction((0.1,) * 10).entropy == pytest.approx(math.log2(10))
    assert Prediction((0.5, 0.5) + (0.0,) * 8).entropy == pytest.approx(1)


def test_a_prediction_is_confident_by_its_probability_and_its_ood_percentile() -> None:
    assert not Prediction((0.5, 0.5) + (0.0,) * 8).is_confident
    assert Prediction((0.9, 0.1) + (0.0,) * 8).is_confident
    assert Prediction((0.9, 0.1) + (0.0,) * 8, 0.98).is_confident
    assert not Prediction((1.0,) + (0.0,) * 9, 0.99).is_confident


def test_a_network_assembled_from_other_weights_predicts_as_theirs(mnist: Dataset) -> None:
    network = build(parse("4 M 10 A"), 0).eval()
    other = build(parse("4 M 10 A"), 1).eval()
    image = mnist.test_images[3]
    before = predict(network, image)
    assert predict(assembled(parse("4 M 10 A"), other.state_dict()), image) == predict(other, image)
    assert predict(network, image) == before
    assert predict(network, image, temperature=1e9).probabilities == pytest.approx((0.1,) * 10)


def test_a_prediction_is_described_in_a_heading_and_a_caption() -> None:
    seven = (0.0,) * 7 + (0.95, 0.05, 0.0)
    cases = [
        (Prediction(seven), "Prediction: 7", "Probability 95.0 %"),
        (Prediction(seven, 0.5), "Prediction: 7", "Probability 95.0 % · OOD percentile 50.0"),
        (
            Prediction(seven, 0.99),
            "Uncertain",
            "Not recognized as a digit; closest class: 7, with a probability of 95.0 % · OOD percentile 99.0",
        ),
        (
            Prediction((0.6, 0.4) + (0.0,) * 8),
            "Uncertain",
            "Perhaps a 0, with a probability of 60.0 %, or not a digit",
        ),
    ]
    for prediction, heading, caption in cases:
        assert prediction_heading(prediction) == heading
        assert prediction_caption(prediction) == caption


def test_a_loaded_model_predicts_one_image_as_among_many(mnist: Dataset) -> None:
    network = shipped_network()
    calibration = replace(UNCALIBRATED, temperature=2.0)
    model = LoadedModel("name", network.architecture, network, ("name", 12), calibration)
    many = model.predict(mnist.test_images[:20])
    assert many[3].probabilities == pytest.approx(model.predict(mnist.test_images[3:4])[0].probabilities, abs=1e-6)
    assert many[3].probabilities == pytest.approx(predict(network, mnist.test_images[3], 2.0).probabilities, abs=1e-6)
    assert model.predict(mnist.test_images[:0]) == []
    assert (model.step, replace(model, in_training=True).step) == (0, 12)
