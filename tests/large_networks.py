"""Random large networks, and everything that the pages do with one, under a memory limit.

python -m tests.large_networks EXAMPLES SEED    fails on any error except TooLargeError
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import torch
from hypothesis import HealthCheck, Phase, example, given, seed, settings
from hypothesis import strategies as st

from lib.data import dataset
from lib.data.dataset import normalize
from lib.design.analysis import analyze, per_layer
from lib.design.layers import (
    MAX_LAYERS,
    Architecture,
    AveragePool,
    Convolution,
    FullyConnected,
    GlobalAveragePool,
    Layer,
    MaxPool,
)
from lib.design.notation import notation, parse
from lib.evaluation import attribution, metrics
from lib.evaluation.calibration import calibrate
from lib.export.onnx_file import onnx_bytes
from lib.inference.predict import predict, predict_all
from lib.nn.memory import BATCH, TooLargeError, forward_bytes, require_inference_fits, work
from lib.nn.network import build, eval_batch_size, uses_im2col
from lib.storage.checkpoints import MAX_BYTES
from lib.ui import rendering
from lib.ui.network_view import views
from tests.architectures import buildable

# Bytes of address space that the process may add after its start.
LIMIT = 19 * 10**8
# `lib.nn.memory.work` of the images that a network is tried with.
WORK = 10**10
FEW = 10
# Bytes in a forward pass that do not depend on the network, of torch and the allocator, or that the system counts late.
UNCOUNTED = 96 * 10**6
EXAMPLES = (
    "16p28 " * (MAX_LAYERS - 2) + "10 A",
    "2048 " * (MAX_LAYERS - 2) + "10 A",
    "64 add( 64 64x / 64k5x ) R cat( 64 / 64k3x1 64k1x3 / ) 10 A",
    "256 256 M 256 10 A",
    "M M 1024 1024 10 A",
)

# A network of little work that exceeds the memory limit with 250 images at once.
WIDE = "1400 10k1 A"
SLOW = ("M28 2048p28 10k1 A", "16k1p28 " * 8 + "10 A", "16k1p28 " * 20 + "10 A")

convolutions = st.builds(
    Convolution,
    channels=st.sampled_from([1, 4, 16, 17, 64, 200, 512, 1024, 2048]),
    kernel_size=st.sampled_from([1, 1, 2, 3, 3, 5, 9, 28]),
    stride=st.sampled_from([1, 1, 1, 2]),
    dilation=st.sampled_from([1, 1, 1, 2, 5]),
    padding=st.sampled_from([None, None, 0, 1, 14, 28]),
    norm=st.sampled_from(["after", "before", "none"]),
)
pools = st.builds(
    lambda layer, kernel_size, stride: layer(kernel_size=kernel_size, stride=stride),
    st.sampled_from([MaxPool, AveragePool]),
    st.integers(2, 5),
    st.integers(1, 3),
)


@st.composite
def large_architectures(draw: st.DrawFn) -> Architecture:
    """Up to MAX_LAYERS layers: a few different ones, each repeated, then a head."""
    body: list[Layer] = []
    for _ in range(draw(st.integers(1, 4))):
        layer = draw(st.one_of(convolutions, convolutions, pools))
        body += [layer] * draw(st.sampled_from([1, 1, 2, 4, 8, 20, 60]))
    head: list[Layer] = draw(st.sampled_from([[Convolution(10), GlobalAveragePool()], [FullyConnected(10)]]))
    body = body[: MAX_LAYERS - 2]
    while not buildable(body + head):
        body.pop()
    return Architecture(tuple(body + head))


def memory(field: str) -> int:
    """Memory of this process in bytes, from a field of /proc/self/status such as VmRSS."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def everything(architecture: Architecture, least: int = 3) -> dict[str, str]:
    """Do what the pages do, with at least this many images; returns "done" or "too large" for each action."""
    analysis = analyze(architecture)
    per_layer(analysis, architecture)
    assert len(json.dumps([asdict(view) for view in views(architecture)])) < 10**6
    # A network whose checkpoint is too large is on no other page.
    if 4 * 3 * analysis.num_params > MAX_BYTES:
        return {}
    data, network = dataset.load(), build(architecture).eval()
    # More than one batch for small networks, and few images for those that take a second each.
    count = max(least, min(500, WORK // work(architecture)))
    images, labels, image = data.test_images[:count], data.test_labels[:count], data.test_images[0]
    dot = torch.zeros_like(image)
    dot[14, 14] = 255

    def maps() -> None:
        for found in attribution.activations(network, architecture, image, max_side=rendering.tile_side):
            assert rendering.feature_maps(found.maps).nbytes < 16 * 10**6

    def all_filters() -> None:
        for weights in attribution.filters(network, architecture).values():
            assert rendering.filter_grid(weights).nbytes < 16 * 10**6

    with suppress(TooLargeError):
        require_inference_fits(architecture, uses_im2col())
        some = images[: eval_batch_size(architecture)]
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        before = memory("VmRSS")
        with torch.inference_mode():
            network(normalize(some))
        assert memory("VmHWM") - before < 1.1 * forward_bytes(architecture, len(some), uses_im2col()) + UNCOUNTED
    layers = len(architecture.layers)
    actions: dict[str, Callable[[], object]] = {
        "predict": lambda: predict(network, image),
        "predict_all": lambda: predict_all(network, images),
        "calibrate": lambda: calibrate(network, data, count, fit_ood=False),
        "evaluation": lambda: metrics.evaluate(network, architecture, images, labels),
        "maps": maps,
        "filters": all_filters,
        "dead": lambda: attribution.dead_channels(
            network, architecture, images[: attribution.affordable(architecture, count)]
        ),
        "saliency": lambda: attribution.saliency(network, architecture, image),
        "occlusion": lambda: attribution.occlusion(network, architecture, dot),
        "fields": lambda: attribution.effective_fields(
            network, architecture, images[: attribution.affordable(architecture, 4, passes=layers)]
        ),
        "onnx": lambda: onnx_bytes(architecture, network.state_dict()),
    }
    said = {}
    for name, action in actions.items():
        try:
            action()
            said[name] = "done"
        except TooLargeError as error:
            assert "limit" in str(error), error
            said[name] = "too large"
    return said


def main(examples: int, number: int) -> None:
    """Print how often each action was done, and the peak in MB above the start. Raises errors that no page may show."""
    dataset.load()
    everything(parse("4 M 10 A"))
    start, address_space = memory("VmRSS"), memory("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (address_space + LIMIT, address_space + LIMIT))
    counts: dict[str, int] = {}
    peaks = [start]

    @seed(number)
    @settings(
        max_examples=examples, deadline=None, database=None, phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(large_architectures())
    def check(architecture: Architecture) -> None:
        begun = time.monotonic()
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        for name, how in everything(architecture).items():
            counts[f"{name} {how}"] = counts.get(f"{name} {how}", 0) + 1
        peaks.append(memory("VmHWM"))
        took = time.monotonic() - begun
        if took > 5:
            print(f"{took:.0f} s, {(memory('VmHWM') - start) / 1e6:.0f} MB: {notation(architecture)}", file=sys.stderr)

    everything(parse(WIDE), BATCH)
    peaks.append(memory("VmHWM"))
    # SLOW takes minutes; `tests.large_pages` opens the pages with its largest network.
    for text in (*EXAMPLES, *(text for text in SLOW if examples > FEW)):
        check = example(parse(text))(check)
    check()
    print(json.dumps({"peak": (max(peaks) - start) // 10**6, **dict(sorted(counts.items()))}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
