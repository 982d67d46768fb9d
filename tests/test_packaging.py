"""The files by which the project is installed agree with each other."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from tools import ROOT
from tools.server import copy_project

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


def test_the_workflow_checks_the_python_versions_that_pyproject_names() -> None:
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    (matrix,) = re.findall(r"python: \[(.*)\]", workflow)
    named = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["project"]["classifiers"]))
    assert re.findall(r"3\.\d+", matrix) == named
    assert f">={named[0]}" == PROJECT["project"]["requires-python"]


def test_an_image_has_what_a_copy_of_the_project_has(tmp_path: Path) -> None:
    """.dockerignore excludes everything and names what is needed; a copy for the browser tests is known to run."""
    patterns = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in patterns
    kept = [line[1:] for line in patterns if line.startswith("!")]
    assert all(list(ROOT.glob(pattern)) for pattern in kept)
    in_image = {file for pattern in kept for found in ROOT.glob(pattern) for file in (found, *found.rglob("*"))}
    copied = {ROOT / file.relative_to(tmp_path) for file in copy_project(tmp_path).rglob("*") if file.is_file()}
    needed = {file for file in copied if file.parent != ROOT / "docs" or file.suffix == ".svg"}
    assert {file for file in needed if "__pycache__" not in file.parts} <= in_image


def test_an_image_compiles_what_an_installation_compiles() -> None:
    measured, other = (
        re.findall(r"\w+\.measure\(\)", (ROOT / name).read_text(encoding="utf-8"))
        for name in ("Dockerfile", "Makefile")
    )
    assert measured == other != []
