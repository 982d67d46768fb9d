"""What a person does with a page of the app, by Playwright."""

from __future__ import annotations

from playwright.sync_api import Page, expect

TIMEOUT_MS = 60_000
# The stroke of a digit, in canvas pixels.
SEVEN = [(75.0, 70.0), (205.0, 70.0), (125.0, 225.0)]


def settled(page: Page) -> None:
    """Wait until the page is connected and its script has run."""
    app = page.get_by_test_id("stApp")
    expect(app).to_have_attribute("data-test-connection-state", "CONNECTED", timeout=TIMEOUT_MS)
    expect(app).to_have_attribute("data-test-script-state", "notRunning", timeout=TIMEOUT_MS)


def visit(page: Page, url: str) -> None:
    """Open an address and wait until the page has settled."""
    page.goto(url)
    expect(page.get_by_role("heading", level=1)).to_be_visible(timeout=TIMEOUT_MS)
    settled(page)


def draw(page: Page, points: list[tuple[float, float]]) -> None:
    """Draw one stroke on the canvas with the mouse, in canvas pixels."""
    canvas = page.locator("canvas.upper-canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    (x, y), *rest = points
    page.mouse.move(box["x"] + x, box["y"] + y)
    page.mouse.down()
    for x, y in rest:
        page.mouse.move(box["x"] + x, box["y"] + y, steps=12)
    page.mouse.up()
