"""Trainings run without torch's compiler, with the same bits as with it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tools import ROOT

# Prints a digest of the weights after three steps of each optimizer, and whether the compiler was imported.
STEPS = """
import hashlib, sys, torch
if sys.argv[1] == "real":
    import torch._dynamo
from lib.data.dataset import Dataset
from lib.design.notation import parse
from lib.design.recipe import Recipe
from lib.training.optimizers import OPTIMIZER_SPECS
from lib.training.trainer import Trainer

torch.set_num_threads(1)
images = torch.randint(0, 256, (100, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
labels = torch.arange(100) % 10
digest = hashlib.sha256()
for optimizer in OPTIMIZER_SPECS:
    recipe = Recipe(optimizer=optimizer, epochs=1, batch_size=25)
    trainer = Trainer(parse("4 M 10b A"), recipe, Dataset(images, labels, images, labels))
    for _ in range(3):
        next(trainer)
    for tensor in trainer.weights().values():
        digest.update(tensor.numpy().tobytes())
print(digest.hexdigest(), "torch._inductor" in sys.modules)
"""
USED = """
import sys
from lib.training import optimizers
import torch
stub = sys.modules["torch._dynamo"]
assert torch._dynamo is stub
import torch._dynamo.config
assert sys.modules["torch._dynamo"] is not stub
assert torch._dynamo is sys.modules["torch._dynamo"]
assert stub.is_compiling is torch._dynamo.is_compiling
print(float(torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1))))
"""


def printed(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=300).stdout.strip()


@pytest.mark.slow
def test_a_training_does_not_import_the_compiler_and_has_the_same_bits() -> None:
    digest, is_imported = printed(STEPS, "stub").split()
    assert is_imported == "False"
    assert printed(STEPS, "real").split() == [digest, "True"]


@pytest.mark.slow
def test_what_needs_the_compiler_gets_the_real_one() -> None:
    assert printed(USED) == "2.0"
