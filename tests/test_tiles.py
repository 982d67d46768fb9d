"""The inner loops of a convolution, against numpy, for every size of a tile."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lib.nn.kernels import _grad_tile, _tile
from lib.nn.tiles import _IS_WIDE, MAX_CHANNELS, MAX_GRAD_CHANNELS, MAX_POSITIONS, MAX_WEIGHTS, bounds
from lib.nn.vectors import LANES

# A number that no loop computes.
UNTOUCHED = np.float32(1234.5)


def normal(generator: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return generator.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("count", [0, 1, 2, 9, 100])
@pytest.mark.parametrize(("adds", "floor"), [(0, -np.inf), (0, 0.0), (1, 0.0)])
def test_convolution_tiles_of_every_size(count: int, adds: int, floor: float) -> None:
    generator = np.random.default_rng(count)
    for positions, channels in itertools.product(range(1, MAX_POSITIONS + 1), range(1, MAX_CHANNELS + 1)):
        # Neither inputs nor outputs lie side by side, and all arrays are read from some place within.
        step, out_step, out_plane = 3 * LANES, 2 * LANES, 2 * LANES * positions + 5
        x_at, offsets_at, weights_at, out_at = 7, 2, 3, 11
        offsets = np.concatenate([[-99, -99], generator.permutation(count) * 5]).astype(np.int64)
        x = normal(generator, x_at + 5 * max(count, 1) + step * positions + LANES)
        weights = normal(generator, weights_at + (count + 1) * channels)
        out = np.full(out_at + out_plane * channels + out_step * positions + LANES, UNTOUCHED)
        cells = [
            (p, c, slice(at := out_at + p * out_step + c * out_plane, at + LANES))
            for p in range(positions)
            for c in range(channels)
        ]
        for _, _, place in cells:
            out[place] = normal(generator, LANES)
        expected = out.astype(np.float64)
        for p, c, place in cells:
            summed = np.full(LANES, weights[weights_at + c], np.float64)
            for k in range(count):
                start = x_at + offsets[offsets_at + k] + p * step
                summed += x[start : start + LANES].astype(np.float64) * weights[weights_at + (k + 1) * channels + c]
            expected[place] = expected[place] + summed if adds else np.maximum(summed, floor)
        _tile(
            positions, channels, x, x_at, step, offsets, offsets_at, count, weights, weights_at, out, out_at, out_step,
            out_plane, adds, np.float32(floor),
        )  # fmt: skip
        np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4, err_msg=f"{positions} x {channels}")
        written = np.zeros(len(out), bool)
        for _, _, place in cells:
            written[place] = True
        assert (out[~written] == UNTOUCHED).all()


def test_a_convolution_tile_keeps_nan() -> None:
    x, out = np.full(LANES, np.nan, np.float32), np.zeros(LANES, np.float32)
    weights = np.ones(2, np.float32)
    _tile(1, 1, x, 0, 0, np.zeros(1, np.int64), 0, 1, weights, 0, out, 0, LANES, LANES, 0, np.float32(0))
    assert np.isnan(out).all()


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 5), (4, 1), (3, 7)])
def test_weight_grad_tiles_of_every_size(rows: int, columns: int) -> None:
    generator = np.random.default_rng(rows)
    for channels, weights in itertools.product(range(1, MAX_GRAD_CHANNELS + 1), range(1, MAX_WEIGHTS + 1)):
        g_row, x_step = LANES * columns + 3, 2 * LANES
        g_plane, x_row, out_row = g_row * rows + 1, x_step * columns + 9, weights + 2
        g_at, x_at, offsets_at, out_at = 5, 6, 1, 4
        offsets = np.concatenate([[-99], generator.permutation(weights) * 7]).astype(np.int64)
        g = normal(generator, g_at + g_plane * channels + LANES)
        x = normal(generator, x_at + 7 * weights + x_row * rows + LANES)
        out = np.full(out_at + out_row * channels, UNTOUCHED)
        expected = out.astype(np.float64)
        for c, k in itertools.product(range(channels), range(weights)):
            summed = 0.0
            for row, column in itertools.product(range(rows), range(columns)):
                g_start = g_at + c * g_plane + row * g_row + column * LANES
                x_start = x_at + offsets[offsets_at + k] + row * x_row + column * x_step
                summed += float(
                    g[g_start : g_start + LANES].astype(np.float64) @ x[x_start : x_start + LANES].astype(np.float64)
                )
            expected[out_at + c * out_row + k] = summed
        _grad_tile(
            channels, weights, g, g_at, g_plane, g_row, x, x_at, x_row, x_step, offsets, offsets_at, rows, columns, out,
            out_at, out_row,
        )  # fmt: skip
        np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4, err_msg=f"{channels} x {weights}")


def test_parts_are_in_order_and_differ_by_at_most_one() -> None:
    assert bounds(10, 4) == [0, 3, 6, 10]
    for count, largest in itertools.product(range(1, 50), range(1, 7)):
        ends: Any = bounds(count, largest)
        sizes = np.diff(ends)
        assert ends[0] == 0
        assert ends[-1] == count
        assert sizes.min() >= 1
        assert sizes.max() <= largest
        assert sizes.max() - sizes.min() <= 1
        # The compiled loops compute the same ends.
        assert ends == [count * part // len(sizes) for part in range(len(sizes) + 1)]


@pytest.mark.slow
@pytest.mark.skipif(not _IS_WIDE, reason="this machine has no AVX-512, so that all tests run without")
def test_a_machine_without_avx_512_computes_the_same() -> None:
    """The smaller tiles of another processor, in a child process that keeps what it compiles for the next time."""
    root = Path(__file__).parent.parent
    environment = {
        **os.environ,
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CPU_FEATURES": "+avx2,+fma",
        "NUMBA_CACHE_DIR": str(root / ".cache" / "numba-avx2"),
    }
    tests = ["tests/test_tiles.py", "tests/test_vectors.py", "tests/test_fast_path.py"]
    chosen = "test_tiles or change_their_size or whole_channels or maxima"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=", *tests, "-k", chosen]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout
    # Also this test, which is skipped only if the tiles are small.
    assert "1 skipped" in done.stdout, done.stdout


@pytest.mark.slow
def test_kernels_are_compiled_again_if_a_tile_changes(tmp_path: Path) -> None:
    """numba's cache alone sees a change of `kernels.py`, but not one of `tiles.py`."""
    root = Path(__file__).parent.parent
    shutil.copytree(root / "lib", tmp_path / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    program = """
import numpy as np
from lib.nn.kernels import _tile
x, out, weights = np.full(16, -5, np.float32), np.zeros(16, np.float32), np.array([0, 1], np.float32)
_tile(1, 1, x, 0, 0, np.zeros(1, np.int64), 0, 1, weights, 0, out, 0, 16, 16, 0, np.float32(0))
print(out[0], sum(_tile.stats.cache_hits.values()))
"""

    def result() -> str:
        environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
        command = [sys.executable, "-c", program]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=True
        ).stdout.strip()

    assert result() == "0.0 0"
    assert result() == "0.0 1"
    source = tmp_path / "lib" / "nn" / "tiles.py"
    code = source.read_text()
    without_floor = code.replace("at_least(builder, summed, floor)", "summed")
    assert without_floor != code
    source.write_text(without_floor)
    assert result() == "-5.0 0"
