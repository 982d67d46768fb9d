"""Two processes on one folder, in more and longer interleavings than tests/test_run_processes.py."""

from __future__ import annotations

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.test_run_processes import FOLDER_SETTINGS, Folder


def test_two_processes_on_one_folder_lose_nothing() -> None:
    run_state_machine_as_test(Folder, settings=settings(FOLDER_SETTINGS, max_examples=60, stateful_step_count=40))
