"""Two hundred scribbles, resizes and clears of the canvas, in random order."""

from __future__ import annotations

import random
import re
from pathlib import Path

from playwright.sync_api import Browser

from tools.browser import draw, settled, visit
from tools.server import copy_project, serving

ACTIONS = 200
WIDTHS = (390, 700, 1024, 1280)


def test_two_hundred_scribbles_resizes_and_clears_raise_nothing(tmp_path: Path, chromium: Browser) -> None:
    rng, raised = random.Random(0), []
    done = {"scribble": 0, "resize": 0, "clear": 0}
    page = chromium.new_page()
    page.on("pageerror", lambda error: raised.append(str(error)))
    with serving(copy_project(tmp_path)) as url:
        visit(page, f"{url}/draw")
        for _ in range(ACTIONS):
            action = rng.choices(("scribble", "resize", "clear"), (8, 1, 1))[0]
            done[action] += 1
            if action == "scribble":
                draw(page, [(rng.uniform(3, 277), rng.uniform(3, 277)) for _ in range(rng.randint(1, 12))])
            elif action == "resize":
                page.set_viewport_size({"width": rng.choice(WIDTHS), "height": 900})
            else:
                page.locator("canvas.upper-canvas").hover()
                clear = page.get_by_role("button", name=re.compile("clear|reset|delete", re.IGNORECASE)).last
                if clear.is_enabled():
                    clear.click()
            assert page.get_by_test_id("stException").count() == 0
        settled(page)
        draw(page, [(140.0, 60.0), (140.0, 220.0)])
        settled(page)
        assert page.get_by_test_id("stException").count() == 0
    assert raised == []
    print(done)
    page.close()
