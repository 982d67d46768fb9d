"""The preflight check's estimate of memory, compared with the peak of trainings."""

from __future__ import annotations

import pytest

from lib.design.notation import parse
from lib.design.recipe import Augmentation, Recipe
from lib.runs.preflight import training_memory
from tests.test_preflight import CODE, peak

ALL = Augmentation(10, 0.07, 0.1, 10, 0.3)


@pytest.mark.parametrize(
    ("network", "recipe"),
    [
        (CODE, Recipe(epochs=100, batch_size=4096, outlier_ratio=1.0, synthetic_ratio=1.0, augmentation=ALL)),
        (CODE, Recipe(epochs=100, batch_size=4096)),
        (CODE, Recipe()),
        ("64 64b M 64n 10 A", Recipe(batch_size=64)),
        ("2 10 A", Recipe(batch_size=4096)),
        ("16 16 16 10 A", Recipe(batch_size=512)),
        ("32n 64n M 128n 256n M 512vn 1024vn 10v", Recipe(batch_size=128)),
        ("128n M 256n M 10 A", Recipe(batch_size=64, outlier_ratio=1.0, synthetic_ratio=1.0)),
        ("1024f 1024f 10f", Recipe(batch_size=64)),
        ("M M 1024 1024 10 A", Recipe(batch_size=8)),
        ("16k1p28 " * 8 + "10 A", Recipe(batch_size=8)),
        ("32b 32b M3s2 32n D20 10 A", Recipe("SGD", 0.01, batch_size=256)),
        ("2048 10 A", Recipe(batch_size=32)),
        ("8p28 16k28 M 10 A", Recipe(batch_size=64)),
        ("32 add( 32b 32x N ) R add( 32b 32x N ) R M 64 10v A", Recipe(batch_size=256)),
        ("norm=gn4 act=gelu dropout=10c | 32 32 M 64 cat( 32k1 / 32 / ) 10v A", Recipe(batch_size=256)),
        ("32.gbn4 32.ln M 32.in 32.ln2d.silu 64g32 G F N 10f", Recipe(batch_size=256)),
    ],
)
def test_the_estimate_is_close_to_the_peak(network: str, recipe: Recipe) -> None:
    said, took = sum(training_memory(parse(network), recipe).values()), peak(recipe, network)
    assert 0.9 * took < said < 2 * took + 500e6
