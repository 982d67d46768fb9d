"""Take the pictures in docs/ from the running app in Chromium, light and dark.

make screenshots
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from tools.browser import SEVEN, draw, settled, visit
from tools.chromium import LAUNCH_ARGUMENTS, install
from tools.server import copy_project, serving

FOLDER = Path(__file__).parent
LONGEST = 2400
BAR = [(115.0, 150.0), (195.0, 150.0)]


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(copy_project(Path(folder))) as url,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=install(), args=LAUNCH_ARGUMENTS)
        trained = ""
        for scheme in ("light", "dark"):
            context = browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme=scheme)
            page = context.new_page()
            visit(page, url)
            shoot(page, f"design-{scheme}.png")
            visit(page, trained or f"{url}/train")
            if not trained:
                page.get_by_role("button", name="Start training").click()
            expect(page.get_by_text(re.compile("^Finished"))).to_be_visible(timeout=300_000)
            trained = page.url
            shoot(page, f"train-{scheme}.png")
            visit(page, f"{url}/draw")
            draw(page, SEVEN)
            settled(page)
            draw(page, BAR)
            expect(page.get_by_role("heading", name="Prediction: 7")).to_be_visible(timeout=15_000)
            page.mouse.move(640, 20)
            shoot(page, f"draw-{scheme}.png")
            visit(page, f"{url}/inspect?image=4")
            expect(page.get_by_role("heading", name="Prediction: 4")).to_be_visible()
            shoot(page, f"inspect-{scheme}.png")
            visit(page, f"{url}/errors")
            expect(page.locator(".live-figure .main-svg").nth(2)).to_be_visible()
            shoot(page, f"errors-{scheme}.png")
            context.close()
        browser.close()


def shoot(page: Page, name: str) -> None:
    """Take the whole page, up to a height of LONGEST pixels."""
    settled(page)
    page.wait_for_timeout(1500)
    width, before = 1280, 800
    height = page.get_by_test_id("stMain").evaluate("main => main.scrollHeight")
    page.set_viewport_size({"width": width, "height": min(max(before, height), LONGEST)})
    page.wait_for_timeout(800)
    page.screenshot(path=FOLDER / name)
    page.set_viewport_size({"width": width, "height": before})
    print(f"docs/{name}")


if __name__ == "__main__":
    main()
