"""Random large networks through all that the pages do, and the pages themselves, under a limit of memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_memory import run_under_limit


@pytest.mark.parametrize("seed", ["1", "2"])
def test_large_networks(seed: str) -> None:
    found = run_under_limit("large_networks", "40", seed)
    assert isinstance(found["peak"], int)
    assert found["peak"] < 1_900


def test_every_page_of_a_small_network_of_huge_maps(tmp_path: Path) -> None:
    """Errors measures only as many images as take a minute. tests/test_memory.py opens Draw and Inspect."""
    found = run_under_limit("large_pages", str(tmp_path), "design", "photos", "errors")
    assert "Measured on the first" in str(found["errors"])
