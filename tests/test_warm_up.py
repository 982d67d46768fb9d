"""The work in the background after a start: when torch is imported, and when the machine is measured."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from lib.training import time_estimate
from lib.training.step_counts import StepCounts, TileSizes
from lib.ui import warm_up
from lib.ui.process import PageRequests
from tools.waiting import until


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a start."""
    monkeypatch.setattr(warm_up, "_profile", None)
    monkeypatch.setattr(warm_up, "_torch_needed", threading.Event())
    monkeypatch.setattr(warm_up, "_last_page", 0.0)


def test_the_machine_is_measured_when_no_page_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = StepCounts(1, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    profile, begun = time_estimate.MachineProfile(costs, 2, TileSizes(6, 4, 4, 6, 16)), threading.Event()

    def measure() -> time_estimate.MachineProfile:
        begun.set()
        return profile

    monkeypatch.setattr(time_estimate, "measure", measure)
    monkeypatch.setattr(warm_up, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(warm_up, "QUIET_SECONDS", 0.3)
    thread = threading.Thread(target=warm_up._measure)
    with warm_up.page_running():
        thread.start()
        assert not begun.wait(0.6)
        # One page ends while another still runs.
        with warm_up.page_running():
            pass
        assert not begun.wait(0.6)
        ended = time.monotonic()
    assert begun.wait(30)
    assert time.monotonic() - ended >= 0.3
    thread.join(30)
    assert warm_up.machine_profile() is profile


@pytest.mark.parametrize(("path", "needed"), [("/draw", True), ("/base/train", True), ("/", False), ("/app.js", False)])
def test_torch_is_imported_when_a_page_is_requested_that_needs_it(path: str, needed: bool) -> None:
    served: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        served.append(scope["path"])

    request = PageRequests(app)({"type": "http", "path": path}, None, None)  # type: ignore[arg-type]
    # A browser of another test may leave its event loop running in this thread.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, request).result(timeout=60)
    assert served == [path]
    assert warm_up._torch_needed.is_set() == needed
    waiting = threading.Thread(target=warm_up._wait_for_first_page)
    with warm_up.page_running():
        waiting.start()
        if needed:
            waiting.join(30)
            assert not waiting.is_alive()
        else:
            waiting.join(warm_up.FIRST_PAGE_SECONDS + 0.3)
            assert waiting.is_alive()
    until(lambda: not waiting.is_alive(), seconds=30)


def test_the_garbage_collector_works_again_after_the_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    warm_up.request_page("draw")
    monkeypatch.setattr(warm_up, "IMPORTS", ("json",))
    frozen = gc.get_freeze_count()
    try:
        warm_up._import()
        assert gc.isenabled()
        assert gc.get_freeze_count() > frozen
        monkeypatch.setattr(warm_up, "IMPORTS", ("a_module_that_does_not_exist",))
        with pytest.raises(ModuleNotFoundError):
            warm_up._import()
        assert gc.isenabled()
    finally:
        gc.unfreeze()
