"""The files by which the project is installed agree with each other."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def pins(file: str) -> dict[str, str]:
    """Versions by package of a requirements file, those of files that it includes left out."""
    return dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize(
    ("ranges", "file"),
    [
        (PROJECT["project"]["dependencies"], "requirements.txt"),
        (PROJECT["dependency-groups"]["dev"], "requirements-dev.txt"),
    ],
)
def test_each_pinned_version_is_in_the_range_of_pyproject(ranges: list[str], file: str) -> None:
    required = {requirement.name: requirement.specifier for requirement in map(Requirement, ranges)}
    assert required.keys() == pins(file).keys()
    for name, version in pins(file).items():
        assert version in required[name], name


def test_each_script_can_be_called() -> None:
    for target in PROJECT["project"]["scripts"].values():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_the_files_named_by_pyproject_are_there() -> None:
    project = PROJECT["project"]
    assert all((ROOT / name).is_file() for name in [project["readme"], *project["license-files"]])
