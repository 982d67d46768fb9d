"""What the tests share: real MNIST, a small part of it, and no deadline on a machine that is busy."""

from __future__ import annotations

import pytest
from hypothesis import settings

from lib import dataset
from lib.dataset import Dataset

settings.register_profile("receptive", deadline=None)
settings.load_profile("receptive")


@pytest.fixture(scope="session")
def mnist() -> Dataset:
    return dataset.load()


@pytest.fixture(scope="session")
def small(mnist: Dataset) -> Dataset:
    """The first 1,000 and 500 images of MNIST, for what needs no more."""
    return Dataset(
        mnist.train_images[:1000], mnist.train_labels[:1000], mnist.test_images[:500], mnist.test_labels[:500]
    )
