"""Fixtures of the tests: MNIST, a small part of it, a server, and Chromium."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from playwright.sync_api import Browser, Page, Request, sync_playwright

from lib.data import dataset
from lib.data.dataset import Dataset
from lib.evaluation import calibration, prediction_cache
from lib.evaluation.calibration import Calibration
from lib.nn.network import Network
from tools.chromium import LAUNCH_ARGUMENTS, install
from tools.server import copy_project, serving

# On a busy machine an example may take any time.
settings.register_profile("receptive", deadline=None)
settings.load_profile("receptive")

# All fixtures of a browser or a server use one of these. A parameter of a test may be called `page` too.
BROWSER_FIXTURES = {"chromium", "served"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use a browser or a server as `browser`."""
    for item in items:
        if BROWSER_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def mnist() -> Dataset:
    return dataset.load()


@pytest.fixture(scope="session")
def small(mnist: Dataset) -> Dataset:
    """The first 1,000 training and 500 test images of MNIST."""
    return Dataset(
        mnist.train_images[:1000], mnist.train_labels[:1000], mnist.test_images[:500], mnist.test_labels[:500]
    )


@pytest.fixture(autouse=True)
def predictions(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which predictions are kept: one of the test's own."""
    folder = tmp_path_factory.mktemp("predictions")
    monkeypatch.setattr(prediction_cache, "FOLDER", folder)
    return folder


@pytest.fixture(scope="session")
def calibrations() -> dict[object, Calibration]:
    return {}


@pytest.fixture
def calibrated_once(calibrations: dict[object, Calibration], monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibrate the same weights only once for all tests: it takes seconds, and the result is the same."""
    calibrate = calibration.calibrate

    def once(network: Network, data: Dataset, *arguments: Any, **options: Any) -> Calibration:
        weights = tuple((name, tensor.numpy().tobytes()) for name, tensor in network.state_dict().items())
        question = (weights, repr(network), id(data), arguments, tuple(sorted(options.items())))
        if question not in calibrations:
            calibrations[question] = calibrate(network, data, *arguments, **options)
        return calibrations[question]

    monkeypatch.setattr(calibration, "calibrate", once)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=install(), args=LAUNCH_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A tab of its own. It may request nothing outside this machine, and must show no exception in the end."""
    context = chromium.new_context(viewport={"width": 1280, "height": 1000})
    outside: list[str] = []

    def note(request: Request) -> None:
        if not re.match(r"(http|ws)://127\.0\.0\.1[:/]|data:|blob:", request.url):
            outside.append(request.url)

    context.on("request", note)
    tab = context.new_page()
    yield tab
    assert tab.get_by_test_id("stException").count() == 0
    context.close()
    assert outside == []


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The copy of the project that `url` serves."""
    return copy_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="session")
def url(served: Path) -> Iterator[str]:
    """The address of one server for all tests that leave nothing behind that would affect another test."""
    with serving(served) as address:
        yield address
