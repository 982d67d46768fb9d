"""What a training is said to need, held to what it takes, and what a process may still take."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from lib.design.notation import parse
from lib.design.recipe import Augmentation, Recipe, to_json
from lib.runs import preflight
from lib.runs.preflight import cgroup_room, preflight_error, trained_images, training_memory
from tools import ROOT

pytestmark = pytest.mark.slow


LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
CODE = "4 4 8 M 12 12 16 M 20v 10v A"


def peak(recipe: Recipe, network: str) -> int:
    command = [sys.executable, "-m", "tests.training_peak", to_json(recipe), network]
    return int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=400).stdout)


@LINUX
def test_what_is_said_to_be_needed_is_what_a_training_takes() -> None:
    """soak/test_training_memory.py has more of them, the largest recipe included."""
    network = CODE
    recipe = Recipe(
        batch_size=1024, outlier_ratio=0.5, synthetic_ratio=0.5, augmentation=Augmentation(10, 0.07, 0.1, 10, 0.3)
    )
    said = sum(training_memory(parse(network), recipe).values())
    # On a busy machine one peak in ten is a fifth higher, because threads of the process take turns differently.
    took = min(peak(recipe, network) for _ in range(2))
    assert 0.9 * took < said < 2 * took + 200e6


def test_measuring_and_making_batches_count(tmp_path: Path) -> None:
    """F1: with a batch of 1, measuring and calibrating take more than training; so may writing digits."""
    alone = training_memory(parse("16k1p28 " * 8 + "10 A"), Recipe(batch_size=1))
    assert alone["evaluating it"] > 2e8
    plain = training_memory(parse(CODE), Recipe(batch_size=4096))
    written = training_memory(parse(CODE), Recipe(batch_size=4096, synthetic_ratio=1.0))
    assert written["making its batches"] > 2e8
    assert "making its batches" not in plain
    said = str(preflight_error(parse("16k1p28 " * 20 + "10 A"), Recipe(batch_size=64), tmp_path))
    assert "GB of them for the outputs of a batch and their gradients" in said
    assert said.endswith("are available. Use fewer channels or a smaller batch.")


@LINUX
def test_a_limit_of_the_process_is_seen() -> None:
    code = (
        "import resource\nfrom lib.runs import preflight\nsize = preflight._field(preflight.Path('/proc/self/status'),"
        " 'VmSize:') * 1024\nresource.setrlimit(resource.RLIMIT_AS, (size + 10**9,) * 2)\n"
        "print(preflight._available_memory())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 0.8e9 < int(done.stdout) <= 1e9


def test_the_least_of_all_control_groups_counts(tmp_path: Path) -> None:
    def write(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    groups = tmp_path / "cgroup"
    groups.write_text("0::/a/b\n")
    assert cgroup_room(groups, tmp_path) is None
    write("a/b/memory.max", "max\n")
    write("a/b/memory.current", "5\n")
    assert cgroup_room(groups, tmp_path) is None
    write("a/memory.max", "1000\n")
    write("a/memory.current", "700\n")
    assert cgroup_room(groups, tmp_path) == 300
    write("a/memory.stat", "anon 500\ninactive_file 150\n")
    assert cgroup_room(groups, tmp_path) == 450
    # In a container the path is that outside of it, and the root is the group.
    write("memory.max", "400\n")
    write("memory.current", "300\n")
    assert cgroup_room(groups, tmp_path) == 100
    # Version 1, beside it or alone.
    groups.write_text("4:cpu,cpuacct:/x\n5:memory:/y\n")
    write("memory/y/memory.limit_in_bytes", "90\n")
    write("memory/y/memory.usage_in_bytes", "20\n")
    assert cgroup_room(groups, tmp_path) == 70
    assert cgroup_room(tmp_path / "none", tmp_path) is None


def test_the_train_page_counts_the_images_that_are_trained_on() -> None:
    """B5: 55,000 images in batches of three leave one over, which a norm of one pixel cannot take."""
    assert [trained_images(Recipe(validation=held)) for held in ("test", "held-out")] == [60_000, 55_000]
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    for name, value in (("net", "4 M 8k14v 10 A"), ("validation", "held-out"), ("batch_size", "3")):
        at.query_params[name] = value
    at.run().switch_page("pages/train.py").run()
    assert "the last batch has a single image" in at.error[0].value
    assert next(button for button in at.button if button.label == "Start training").disabled
    assert preflight.preflight_error(parse("4 M 8k14v 10 A"), Recipe(batch_size=3), ROOT) is None
