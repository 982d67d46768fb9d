"""Random large networks through all that the pages do, and the pages themselves, under a limit of memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_memory import under_a_limit


@pytest.mark.parametrize("seed", ["1", "2"])
def test_large_networks(seed: str) -> None:
    found = under_a_limit("large_networks", "40", seed)
    assert isinstance(found["peak"], int)
    assert found["peak"] < 1_900


def test_every_page_of_a_small_network_of_huge_maps(tmp_path: Path) -> None:
    """Errors takes a minute: as many images as that is enough for. tests/test_memory.py opens Draw and Inside."""
    found = under_a_limit("large_pages", str(tmp_path), "design", "photos", "errors")
    assert "Measured on the first" in str(found["errors"])
