"""Very many uploads: the server frees their memory, and the page still works."""

from __future__ import annotations

import re
import time
from pathlib import Path

from playwright.sync_api import Browser, expect

from lib.data.dataset import Dataset
from lib.inference.photos import MAX_FILES
from tests.photographs import photo
from tests.web_client import request, session, token, upload
from tools.browser import visit
from tools.server import copy_project, serving

MEGABYTE = 2**20
SECONDS_KEPT = 2


def held_bytes(url: str) -> int:
    """Bytes of uploads in memory, by Streamlit's metrics."""
    metrics = request(url, "GET", "/_stcore/metrics?families=cache_memory_bytes")[2].decode()
    found = re.search(r'cache_type="UploadedFileManager",cache=""\} (\d+)', metrics)
    return int(found[1]) if found else 0


def test_uploads_of_a_closed_tab_are_freed_at_a_later_visit(tmp_path: Path) -> None:
    with serving(copy_project(tmp_path), "--server.disconnectedSessionTTL", str(SECONDS_KEPT)) as url:
        with session(url, "") as tab:
            headers = token(url)
            assert [upload(url, tab, f"large-{number}", 9 * MEGABYTE, headers) for number in range(30)] == 30 * [204]
            assert [upload(url, tab, f"small-{number}", 1000, headers) for number in range(500)] == 500 * [204]
            assert held_bytes(url) == 30 * 9 * MEGABYTE + 500 * 1000
        end = time.monotonic() + 60
        while held_bytes(url) and time.monotonic() < end:
            time.sleep(SECONDS_KEPT + 1)  # Streamlit's metrics are five seconds old at most.
            with session(url, ""):
                pass
        assert held_bytes(url) == 0


def test_of_five_hundred_photos_at_once_the_first_two_hundred_are_read(
    tmp_path: Path, chromium: Browser, mnist: Dataset
) -> None:
    files = [tmp_path / f"{number}.jpg" for number in range(500)]
    for number, file in enumerate(files):
        file.write_bytes(photo(mnist.test_images[number], "plain", number))
    project = tmp_path / "project"
    project.mkdir()
    with serving(copy_project(project)) as url:
        page = chromium.new_page()
        visit(page, f"{url}/photos")
        started = time.monotonic()
        page.locator("input[type=file]").set_input_files(files)
        expect(page.get_by_text(f"500 files are more than {MAX_FILES}: the first {MAX_FILES} are read.")).to_be_visible(
            timeout=120_000
        )
        expect(page.get_by_text(re.compile(rf"^\d+ of {MAX_FILES} photos read"))).to_be_visible(timeout=120_000)
        print(f"500 photos, {MAX_FILES} of them read: {time.monotonic() - started:.0f} s")
        assert page.get_by_test_id("stException").count() == 0
        page.close()
