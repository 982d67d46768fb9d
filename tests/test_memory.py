"""The memory of a pass; networks that are too large, and failed allocations, become messages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from streamlit.testing.v1 import AppTest

from lib.data.dataset import Dataset
from lib.design.layers import Architecture
from lib.design.notation import parse
from lib.design.presets import PRESETS
from lib.evaluation import attribution, metrics
from lib.evaluation.calibration import calibrate
from lib.inference.predict import predict
from lib.nn.memory import (
    BATCH,
    BUDGET,
    OUT_OF_MEMORY,
    TooLargeError,
    backward_bytes,
    batch_size,
    forward_bytes,
    gradient_batch_size,
    is_out_of_memory,
    require_inference_fits,
)
from lib.nn.network import build
from lib.ui import rendering
from lib.ui.bounded_cache import BoundedCache
from tests.large_networks import large_architectures

pytestmark = pytest.mark.slow


ROOT = Path(__file__).parent.parent
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the memory limit works on Linux only")
HUGE = "16k1p28 " * 20 + "10 A"


def run_under_limit(module: str, *arguments: str) -> dict[str, object]:
    """Run a module of tests/ in a process that may take 1.9 GB more than at its start; returns the JSON it prints."""
    command = [sys.executable, "-m", f"tests.{module}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1_500)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@LINUX
def test_large_networks_work_or_are_refused_and_never_run_out_of_memory() -> None:
    """The short version of soak/test_large_networks.py."""
    found = run_under_limit("large_networks", "2", "0")
    assert isinstance(found["peak"], int)
    assert found["peak"] < 1_900
    assert found["predict done"]
    assert found["predict too large"]


@LINUX
def test_a_small_network_of_huge_maps_opens_on_the_pages(tmp_path: Path) -> None:
    """Draw once took 9.4 GB, then showed a traceback."""
    found = run_under_limit("large_pages", str(tmp_path), "draw", "inspect")
    assert isinstance(found["peak"], int)
    assert found["peak"] < 1_900
    assert "too large to be calibrated here" in str(found["draw"])
    assert "Maps wider than their tile are shown smaller" in str(found["inspect"])
    assert "A gradient keeps all outputs of the network" in str(found["Attribution"])
    assert "limit here is" in str(found["Receptive fields"])


def _page() -> None:
    import streamlit as st
    import torch

    from lib.ui import guard

    def exhaust(kind: str) -> None:
        if kind == "torch":
            torch.empty(10**15)
        elif kind == "python":
            bytearray(10**15)
        elif kind == "other":
            raise ValueError("of another kind")

    def body() -> None:
        st.button("Callback", on_click=guard.callback(exhaust), args=("torch",))
        st.selectbox("Page", ["", "torch", "python", "other"], key="page")
        st.selectbox("Fragment", ["", "torch"], key="fragment")
        guard.fragment(exhaust)(st.session_state.fragment)
        st.caption("after the fragment")
        exhaust(st.session_state.page)

    guard.run(body)


def test_a_failed_allocation_is_a_message_in_a_page_a_fragment_and_a_callback() -> None:
    """Errors of torch and of Python."""
    at = AppTest.from_function(_page, default_timeout=60).run()
    assert not at.error
    at.button[0].click().run()
    assert [error.value for error in at.error] == [OUT_OF_MEMORY]
    assert not at.exception
    for key, kind in (("fragment", "torch"), ("page", "torch"), ("page", "python")):
        at.selectbox(key="fragment").set_value("").run()
        at.selectbox(key=key).set_value(kind).run()
        assert [error.value for error in at.error] == [OUT_OF_MEMORY]
        assert not at.exception
        assert [caption.value for caption in at.caption] == ["after the fragment"]
    at.selectbox(key="page").set_value("other").run()
    assert len(at.exception) == 1
    assert not at.error


def test_failed_allocations_are_recognized() -> None:
    for allocate in (lambda: torch.empty(10**15), lambda: bytearray(10**15)):
        with pytest.raises((RuntimeError, MemoryError)) as raised:
            allocate()
        assert is_out_of_memory(raised.value)
    with pytest.raises(RuntimeError) as other:
        torch.zeros(2) @ torch.zeros(3)
    assert not is_out_of_memory(other.value)


@settings(max_examples=200)
@given(large_architectures(), st.booleans())
def test_batches_fit_into_the_budget(architecture: Architecture, im2col: bool) -> None:
    images = batch_size(architecture, im2col)
    assert 1 <= images <= BATCH
    assert images == 1 or forward_bytes(architecture, images, im2col) <= BUDGET
    # But for rounding, no larger batch would fit.
    assert images == BATCH or forward_bytes(architecture, 2 * images + 2, im2col) > BUDGET
    try:
        images = gradient_batch_size(architecture, im2col)
    except TooLargeError as error:
        assert "limit here is" in str(error)
        assert str(error).endswith("pools further up.")
    else:
        require_inference_fits(architecture, im2col)
        assert backward_bytes(architecture, images, im2col) <= BUDGET


def test_presets_are_used_in_batches_of_250() -> None:
    for preset in PRESETS:
        assert batch_size(parse(preset.text)) == 250


def test_a_refusal_says_what_the_network_needs_and_what_to_do(mnist: Dataset) -> None:
    with pytest.raises(TooLargeError, match=r"layer 62 has 16 × 3,376 × 3,376 values, .* 2\.9 GB"):
        require_inference_fits(parse("16p28 " * 62 + "10 A"))
    huge = build(parse("16p28 " * 30 + "10 A")).eval()
    found = calibrate(huge, mnist)
    assert (found.images, found.temperature) == (0, 1.0)
    assert str(found.problem).startswith("This network is too large for predictions")
    for look in (
        lambda: predict(huge, mnist.test_images[0]),
        lambda: metrics.evaluate(huge, huge.architecture, mnist.test_images[:1], mnist.test_labels[:1]),
        lambda: attribution.activations(huge, huge.architecture, mnist.test_images[0], rendering.tile_side),
        lambda: attribution.dead_channels(huge, huge.architecture, mnist.test_images[:1]),
        lambda: attribution.saliency(huge, huge.architecture, mnist.test_images[0]),
        lambda: attribution.occlusion(huge, huge.architecture, mnist.test_images[0]),
        lambda: attribution.effective_fields(huge, huge.architecture, mnist.test_images[:1]),
    ):
        with pytest.raises(TooLargeError, match="the limit here is"):
            look()


def test_measurement_and_calibration_take_limited_time(mnist: Dataset) -> None:
    """A network of 580 million MACs was not calibrated after 45 s; those that are shipped use all images."""
    assert metrics.measurable(parse(PRESETS[0].text), 10_000) == 10_000
    assert metrics.measurable(parse(PRESETS[2].text), 10_000) == 10_000
    wide = parse("256 256 M 256 10 A")
    assert 1_000 < metrics.measurable(wide, 10_000) < 5_000
    slow = build(parse("2048k1 2048k1 10 A")).eval()
    assert "too large to be calibrated here" in str(calibrate(slow, mnist).problem)


def test_wide_maps_are_downsampled_by_area_means() -> None:
    maps = torch.arange(2 * 168 * 168, dtype=torch.float32).view(2, 168, 168)
    small = attribution.area_means(maps, 84)
    torch.testing.assert_close(small, maps.view(2, 84, 2, 84, 2).mean((2, 4)))
    assert attribution.area_means(maps, 168) is maps
    for channels, side in ((1, 1148), (64, 500), (256, 100), (2048, 84)):
        assert rendering.feature_maps(torch.rand(channels, side, side)).shape[0] <= 64 * 22
        assert rendering.feature_maps(torch.rand(channels, side, side)).shape[1] <= 720


def test_the_range_of_a_map_is_that_before_downsampling(mnist: Dataset) -> None:
    network = build(parse("4p28 4p28 10 A")).eval()
    full_size = attribution.activations(network, network.architecture, mnist.test_images[0])
    shown = attribution.activations(network, network.architecture, mnist.test_images[0], max_side=lambda channels: 20)
    assert [(m.lowest, m.highest, m.side, m.silent) for m in full_size] == [
        (m.lowest, m.highest, m.side, m.silent) for m in shown
    ]
    assert shown[1].maps.shape == (4, 20, 20)


def test_a_bounded_cache_evicts_old_values_but_keeps_the_last() -> None:
    cache: BoundedCache[str, str] = BoundedCache(10)
    loaded: list[str] = []

    def ask(key: str, size: int) -> None:
        def load() -> tuple[str, int]:
            loaded.append(key)
            return key, size

        assert cache.get(key, load) == key

    for key, size in (
        ("a", 4),
        ("b", 4),
        ("a", 4),
        ("c", 4),
        ("a", 4),
        ("b", 4),
        ("large", 50),
        ("large", 50),
        ("a", 4),
    ):
        ask(key, size)
    assert loaded == ["a", "b", "c", "b", "large", "a"]
