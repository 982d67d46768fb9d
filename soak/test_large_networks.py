"""What the pages do with random large networks, and the pages themselves, under a memory limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_memory import under_a_limit


@pytest.mark.parametrize("seed", ["1", "2"])
def test_random_large_networks_stay_within_the_memory_limit(seed: str) -> None:
    found = under_a_limit("large_networks", "40", seed)
    assert isinstance(found["peak"], int)
    assert found["peak"] < 1_900


def test_the_other_pages_stay_within_the_memory_limit_with_huge_maps(tmp_path: Path) -> None:
    """tests/test_memory.py opens Draw and Inspect. Errors takes a minute, which it needs for part of the images."""
    found = under_a_limit("large_pages", str(tmp_path), "design", "photos", "errors")
    assert "Measured on the first" in str(found["errors"])
