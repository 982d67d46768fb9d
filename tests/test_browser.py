"""The whole path in a real Chromium: design, train on all 60,000 images, draw, read."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect

from lib.data.dataset import Dataset
from lib.data.public_results import load
from lib.design.presets import PRESETS
from lib.ui.page import DESIGN, DRAW, ERRORS, INSPECT, PAGES, TRAIN
from lib.ui.page import Page as AppPage
from tests.photographs import photo
from tools.browser import SEVEN, draw, settled, visit
from tools.server import copy_project, serving

# A machine that is busy, as one that tests several things at once, answers late and not wrongly.
expect.set_options(timeout=20_000)

SCROLLED = "() => [document.scrollingElement.scrollTop, document.querySelector('[data-testid=stMain]').scrollTop]"


@pytest.fixture(scope="module")
def school(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server for the tests that train: each stops its runs, and keeps no other test waiting."""
    with serving(copy_project(tmp_path_factory.mktemp("project"))) as address:
        yield address


def go(page: Page, to: AppPage) -> None:
    page.get_by_role("link", name=to.title, exact=True).first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(to.heading)
    settled(page)


def net(page: Page) -> Locator:
    return page.get_by_role("textbox", name="The network in one line")


def total(page: Page) -> Locator:
    return page.get_by_test_id("stTable").first.get_by_role("row").last


def start(page: Page) -> str:
    """Press Start; gives the run's identity."""
    page.get_by_role("button", name="Start training").click()
    expect(page).to_have_url(re.compile(r"run=run-\d+-[0-9a-f]+"), timeout=30_000)
    found = re.search(r"run=(run-\d+-[0-9a-f]+)", page.url)
    assert found
    return found.group(1)


def step(page: Page) -> int:
    text = page.get_by_text(re.compile(r"step [\d,]+ of")).inner_text(timeout=60_000)
    found = re.search(r"step ([\d,]+) of", text)
    assert found
    return int(found.group(1).replace(",", ""))


def reaches(page: Page, number: int) -> None:
    """Wait until the page shows that step, or a later one."""
    page.wait_for_function(
        """number => {
            const found = document.body.innerText.match(/step ([\\d,]+) of/)
            return found && Number(found[1].replaceAll(",", "")) >= number
        }""",
        arg=number,
        timeout=60_000,
    )


def measured(page: Page, url: str) -> None:
    """The Design page as it stays: it is drawn once more when the machine has been measured after a start."""
    visit(page, url)
    expect(page.get_by_text(re.compile("of training an epoch"))).to_be_visible(timeout=60_000)
    settled(page)


def test_design_train_and_draw_from_end_to_end(page: Page, url: str) -> None:
    """Choose widths, train one epoch on the real data, draw a 7 with the mouse, read the prediction."""
    measured(page, url)
    expect(total(page)).to_contain_text("9,274")
    slider = page.get_by_role("slider", name=re.compile("^3 · 3×3 convolution"))
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(net(page)).to_have_value("4 4 10 M 12 12 16 M 20v 10v A")
    expect(total(page)).to_contain_text("9,568")
    go(page, TRAIN)
    expect(net(page)).to_have_value("4 4 10 M 12 12 16 M 20v 10v A")
    page.get_by_text("One epoch", exact=True).click()
    expect(page.get_by_text("the shortest complete training")).to_be_visible()
    start(page)
    expect(page.locator(".live-figure .main-svg").first).to_be_visible(timeout=60_000)
    before = page.get_by_text(re.compile(rf"step {step(page):,} of"))
    expect(before).to_have_count(0)
    expect(
        page.get_by_text(re.compile(r"Finished: 9[789]\.\d\d % \(95 % CI 9\d\.\d\d–9\d\.\d\d %\) on the test images"))
    ).to_be_visible(timeout=240_000)
    go(page, DRAW)
    expect(page.get_by_text("Nothing drawn yet")).to_be_visible()
    expect(page.get_by_role("combobox")).to_have_value(re.compile("^For drawings"))
    page.get_by_role("combobox").click()
    page.get_by_role("option", name=re.compile(r"^run-")).first.click()
    settled(page)
    draw(page, SEVEN)
    # After one epoch it need not be certain.
    expect(
        page.get_by_text(re.compile("^(Prediction: 7$|Perhaps a 7, |Not recognized as a digit; closest class: 7, )"))
    ).to_be_visible(timeout=15_000)
    bars = page.get_by_role("img", name=re.compile(r"7: \d+\.\d %"))
    expect(bars.locator(".main-svg").first).to_be_visible()
    expect(bars.locator(".bartext")).to_have_count(10)


def test_the_network_is_in_the_address(page: Page, chromium: Browser, url: str) -> None:
    visit(page, url)
    net(page).fill("8 M 16s2 M 10 A")
    net(page).press("Enter")
    expect(page).to_have_url(re.compile(r"net=8\+M\+16s2\+M\+10\+A"))
    other = chromium.new_context().new_page()
    visit(other, page.url)
    expect(net(other)).to_have_value("8 M 16s2 M 10 A")
    expect(total(other)).to_contain_text(total(page).inner_text().split("\t")[2])
    for to in (TRAIN, DRAW, TRAIN, DESIGN):
        go(other, to)
        expect(other).to_have_url(re.compile(r"net=8\+M\+16s2\+M\+10\+A"))
    expect(net(other)).to_have_value("8 M 16s2 M 10 A")
    other.context.close()


def test_back_brings_the_network_before_and_a_change_of_page_loses_none(page: Page, url: str) -> None:
    visit(page, f"{url}/?net=4+M+10+A")
    for text in ("8 M 10 A", "16 M 10 A"):
        net(page).fill(text)
        net(page).press("Enter")
        expect(page).to_have_url(re.compile(re.escape(text.replace(" ", "+"))))
        settled(page)
    page.go_back()
    expect(net(page)).to_have_value("8 M 10 A")
    settled(page)
    go(page, TRAIN)
    expect(page).to_have_url(re.compile(r"/train\?net=8\+M\+10\+A"))
    expect(net(page)).to_have_value("8 M 10 A")
    # A change of page is one entry of the browser's history, or two: the page, then what it writes to its address.
    page.go_back()
    expect(page).to_have_url(re.compile(r"/train$|/\?net=8\+M\+10\+A$"))
    settled(page)
    if page.url.endswith("/train"):
        page.go_back()
    expect(page.get_by_role("heading", level=1)).to_have_text(DESIGN.heading)
    expect(net(page)).to_have_value("8 M 10 A")


def test_a_layers_field_is_shown_over_a_digit_at_any_position(page: Page, url: str) -> None:
    visit(page, url)
    view = page.locator(".network-view")
    expect(view.locator(".name")).to_have_text("7 · 3×3 convolution")
    view.get_by_role("button", name="5 · 3×3 convolution, output 12 × 14 × 14").click()
    expect(page).to_have_url(re.compile("layer=5"))
    words = view.locator(".summary")
    expect(words).to_contain_text("12 × 12 = 144 pixels. All of it is inside the image.")
    expect(view.locator(".formulas")).to_contain_text("8 + (3 − 1) · 2 = 12")

    # The corner: rows and columns 0 to 6 are left of a field that begins at pixel -5.
    view.locator(".positions").click(position={"x": 3, "y": 3})
    expect(words).to_contain_text("Output at row 1, column 1 of 14 × 14")
    expect(words).to_contain_text("95 of them are outside the image, where padding puts zeros; 49 affect the output.")
    shaded = "rects => rects.reduce((sum, rect) => sum + rect.width.baseVal.value * rect.height.baseVal.value, 0) / 36"
    assert view.locator(".field .unseen").evaluate_all(shaded) == 28 * 28 - 49
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    expect(words).to_contain_text("row 2, column 2 of 14 × 14")
    expect(words).to_contain_text("81 affect the output.")

    view.get_by_role("button", name="Digit 7").click()
    expect(view.get_by_role("button", name="Digit 7")).to_have_attribute("aria-pressed", "true")
    expect(words).to_contain_text("row 2, column 2 of 14 × 14")
    # Hovering another layer says its sums; leaving it brings the chosen one back.
    view.get_by_role("button", name="9 · 3×3 convolution, no padding").hover()
    expect(view.locator(".formulas")).to_contain_text("20 · 16 · 3² + 20 = 2,900; batch norm 2 · 20 = 40")
    page.get_by_role("heading", level=1).hover()
    expect(view.locator(".name")).to_have_text("5 · 3×3 convolution")

    page.reload()
    expect(view.locator(".name")).to_have_text("5 · 3×3 convolution", timeout=60_000)
    page.get_by_text("Let the class guess first").click()
    expect(words).to_have_text("Receptive field and formulas are shown when the class has guessed.")
    expect(view.locator(".field")).to_be_hidden()
    expect(view.locator(".formulas")).to_be_empty()


def test_positions_that_no_logit_reads_are_dashed_and_a_layer_is_chosen_by_keyboard(page: Page, url: str) -> None:
    visit(page, f"{url}/?net=4+4+8+M+12+12+16v+M+20+10v+A3s2")
    view = page.locator(".network-view")
    view.get_by_role("button", name="10 · 3×3 convolution, no padding").focus()
    page.keyboard.press("Enter")
    expect(view.locator(".summary")).to_contain_text(
        "The logits depend on 9 of its 16 positions; the dashed ones are not used."
    )
    expect(view.locator(".position.unused")).to_have_count(7)
    expect(view.locator("[data-layer='10']")).to_be_focused()


def test_unused_positions_of_a_map_wider_than_31_are_dashed_and_a_huge_map_says_so(page: Page, url: str) -> None:
    """36 × 36 positions, of which the pool above leaves out a row and a column: 36² − 35² = 71."""
    visit(page, f"{url}/?net=4p5+M5s5+10+A")
    view = page.locator(".network-view")
    view.get_by_role("button", name="1 · 3×3 convolution, padding 5").click()
    expect(view.locator(".position.unused")).to_have_count(71)
    visit(page, f"{url}/?net=4p28+4p28+4p28s28+10+A")
    view.get_by_role("button", name="2 · 3×3 convolution, padding 28").click()
    expect(view.locator(".summary")).to_contain_text("is 136 × 136 positions: too many to be drawn.")
    expect(view.locator(".explored")).to_be_hidden()


def test_bars_show_their_formulas_on_hover(page: Page, url: str) -> None:
    measured(page, url)
    chart = page.get_by_role("img", name=re.compile("^Cumulative parameters and MACs"))
    chart.scroll_into_view_if_needed()
    bars = chart.locator(".subplot.xy .bars .point path")
    expect(bars).to_have_count(11)
    box = bars.nth(8).bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=8)
    expect(chart.locator(".hoverlayer")).to_contain_text("20 · 16 · 3² + 20 = 2,900")


def test_a_click_on_a_public_result_loads_its_network(page: Page, url: str) -> None:
    measured(page, url)
    chart = page.get_by_role("img", name=re.compile("^Test accuracy over .*; 37 of the 227 meet all"))
    chart.scroll_into_view_if_needed()
    expect(chart.locator(".points path").first).to_be_visible()
    # The only point near it is that of the fewest parameters.
    fewest = load()[0]
    x, y = chart.evaluate(
        """(host, [x, y]) => {
            const plot = host.querySelector(".nsewdrag").getBoundingClientRect()
            const across = host._fullLayout.xaxis, up = host._fullLayout.yaxis
            return [plot.left + across.d2p(x), plot.top + up.d2p(y)]
        }""",
        [fewest.params, fewest.accuracy],
    )
    page.mouse.move(x, y, steps=8)
    hover = chart.locator(".hoverlayer")
    expect(hover).to_contain_text("2,600 parameters")
    expect(hover).to_contain_text("20 epochs, final 98.02 %, best 98.06 %")
    expect(hover).to_contain_text("Click to load this network")
    page.mouse.click(x, y)
    expect(net(page)).to_have_value(fewest.notation)
    expect(total(page)).to_contain_text("2,600")
    page.get_by_role("button", name="Undo").click()
    expect(net(page)).to_have_value(PRESETS[0].text)


def test_the_shipped_network_is_taken_away_as_onnx(page: Page, url: str, tmp_path: Path, mnist: Dataset) -> None:
    visit(page, url)
    page.get_by_text("Export", exact=True).click()
    with page.expect_download(timeout=60_000) as download:
        page.get_by_role("button", name="ONNX: The assignment's network", exact=True).click()
    download.value.save_as(tmp_path / "network.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx", providers=["CPUExecutionProvider"])
    pixels = mnist.test_images[:200, None].numpy().astype(np.float32) / 255
    digits = np.asarray(session.run(["logits"], {"pixels": pixels})[0]).argmax(1)
    assert (digits == mnist.test_labels[:200].numpy()).mean() >= 0.98


# Streamlit's drop area has a name but no role; screen readers read the button inside it.
EXCUSED = ("presentation-role-conflict", "stFileUploaderDropzone")


def violations(page: Page) -> list[tuple[str, str, list[str]]]:
    """What axe-core finds: how bad, which rule, where."""
    found = Axe().run(page).response["violations"]
    places = [(v["impact"], v["id"], [node["html"][:200] for node in v["nodes"]]) for v in found]
    return [(bad, rule, nodes) for bad, rule, nodes in places if rule != EXCUSED[0] or EXCUSED[1] not in nodes[0]]


BUSY = "?compare=4+8+M+10+A&layer=2"
BRANCHES = "?net=8+add(8b+8x+N)+R+M+cat(4k3x1/4k1x3/)+D5+10+A&layer=5"


@pytest.mark.parametrize(("scheme", "widths"), [("light", (1280, 390)), ("dark", (390, 1280))])
def test_pages_are_accessible_and_fit_the_screen(
    chromium: Browser, url: str, scheme: Literal["light", "dark"], widths: tuple[int, int]
) -> None:
    """axe-core finds no violation in a page, and no page is wider than its screen: a desk's and a phone's, each as the
    page is opened and after the window has changed its size.
    """
    context = chromium.new_context(viewport={"width": widths[0], "height": 900}, color_scheme=scheme)
    tab = context.new_page()
    designs = (BUSY, BRANCHES, "?net=4+oops&hide=nonsense", "?guess=true&modules=true&net=8+M+16+32f+10f")
    for path in (*designs, *(page.name for page in PAGES[1:])):
        visit(tab, f"{url}/{path}")
        if path in designs:
            expect(tab.locator(".strip svg")).to_be_visible()
        if path == "draw":
            expect(tab.locator("canvas.upper-canvas")).to_be_visible()
        if path == "errors":
            expect(tab.locator(".live-figure .main-svg").nth(2)).to_be_visible()
        if path == "photos":
            expect(tab.get_by_test_id("stFileUploaderDropzone")).to_be_visible()
        for width in widths:
            tab.set_viewport_size({"width": width, "height": 900})
            settled(tab)
            # A chart that was drawn for a wider window follows a moment later.
            tab.wait_for_function(
                """width => {
                    const wide = node => node.getBoundingClientRect().width
                    const main = document.querySelector("[data-testid=stMain]")
                    const drawn = [...document.querySelectorAll(".live-figure .main-svg")]
                    return document.scrollingElement.scrollWidth <= width && main.scrollWidth <= main.clientWidth
                        && drawn.every(svg => wide(svg) <= wide(svg.closest(".live-figure")) + 1)
                }""",
                arg=width,
                timeout=5000,
            )
            assert violations(tab) == []
        tab.set_viewport_size({"width": widths[0], "height": 900})
    context.close()


def pictures(page: Page) -> Locator:
    return page.get_by_test_id("stImage").locator("img")


def test_the_inside_of_a_network_is_shown_for_any_image(page: Page, url: str) -> None:
    raised: list[str] = []
    page.on("pageerror", lambda error: raised.append(str(error)))
    visit(page, f"{url}/inspect?image=4")
    expect(page.get_by_role("heading", name="Prediction: 4")).to_be_visible()
    expect(pictures(page)).to_have_count(10)
    assert pictures(page).evaluate_all("images => images.every(image => image.alt)")
    page.get_by_role("button", name="Next").click()
    expect(page.get_by_text("test image 5, label 1")).to_be_visible()
    page.wait_for_function(
        "() => [...document.querySelectorAll('[data-testid=stImage] img')].every(i => i.complete && i.naturalWidth)"
    )
    for section, number in (("Filters", 7), ("Attribution", 4), ("Receptive fields", 10)):
        page.get_by_role("radio", name=section).click()
        expect(pictures(page)).to_have_count(number)
    # What is looked at, and the image, outlive a change of page.
    go(page, DRAW)
    go(page, INSPECT)
    expect(page.get_by_text("test image 5, label 1")).to_be_visible()
    expect(page.get_by_role("radio", name="Receptive fields")).to_be_checked()
    assert raised == []


def test_a_cell_of_the_matrix_shows_its_images_by_click_and_by_keyboard(page: Page, url: str) -> None:
    raised: list[str] = []
    page.on("pageerror", lambda error: raised.append(str(error)))
    visit(page, f"{url}/errors")
    chart = page.get_by_role("img", name=re.compile("^Confusion matrix"))
    expect(chart.locator(".heatmap-label").first).to_be_visible()
    box = chart.locator(".nsewdrag").first.bounding_box()
    assert box is not None
    # Row 4, column 9: its count stands in the cell.
    page.mouse.click(box["x"] + box["width"] * 0.95, box["y"] + box["height"] * 0.45)
    said = page.get_by_text(re.compile(r"^\d+ of 982 images of a 4 are classified as a 9\.$"))
    expect(said).to_be_visible()
    count = int(said.inner_text().split()[0])
    cell = page.locator("[class*='st-key-cell_']").get_by_role("button")
    expect(cell).to_have_count(count)
    expect(page.get_by_text("4, predicted 9").first).to_be_visible()

    truth = page.get_by_role("combobox", name="True digit")
    truth.focus()
    page.keyboard.type("9")
    page.keyboard.press("Enter")
    expect(page.get_by_text(re.compile("images of a 9 are classified correctly"))).to_be_visible()
    expect(cell).to_have_count(61)
    page.get_by_role("button", name="Show 60 more").first.click()
    expect(cell).to_have_count(121)

    number = page.locator("[class*='st-key-errors_']").get_by_role("button").first
    name = number.inner_text()
    number.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(INSPECT.heading)
    expect(page.get_by_text(f"test image {name.removeprefix('No. ')}, label")).to_be_visible()
    assert raised == []


def test_layers_are_edited_by_their_menu_and_undone(page: Page, url: str) -> None:
    measured(page, f"{url}/?net=4+8+M+10+A")
    page.locator(".st-key-edit_1").get_by_role("button").click()
    page.get_by_text("Add a max-pool above", exact=True).click()
    expect(net(page)).to_have_value("4 M 8 M 10 A")
    page.get_by_role("button", name="Undo").click()
    expect(net(page)).to_have_value("4 8 M 10 A")


def test_a_typed_mistake_is_a_sentence(page: Page, url: str) -> None:
    visit(page, url)
    net(page).fill("4 4 oops M")
    net(page).press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("Token 3, “oops”, is not a layer.")
    expect(total(page)).to_contain_text("9,274")


def test_a_running_training_survives_reload_and_second_tab_and_stops(
    page: Page, chromium: Browser, school: str
) -> None:
    visit(page, f"{school}/train?net=4+4+8+M+8+8+8+M+8v+10v+A&epochs=19&batch_size=128")
    identity = start(page)
    expect(page.locator(".live-figure .main-svg").first).to_be_visible(timeout=60_000)
    address = page.url
    page.reload()
    settled_ticking(page)
    assert identity in page.url
    before = step(page)
    second = chromium.new_context(viewport={"width": 1280, "height": 1000}).new_page()
    second.goto(address)
    settled_ticking(second)
    assert step(second) >= before

    # A trace hidden by its legend, a zoom and a hover outlive the ticks.
    chart = page.locator(".live-figure")
    chart.locator(".legendtoggle").first.click()
    hidden = chart.locator(".legend .traces").first
    expect(hidden).to_have_css("opacity", "0.5")
    plot = chart.locator(".draglayer .nsewdrag").first.bounding_box()
    assert plot is not None
    page.mouse.move(plot["x"] + 2, plot["y"] + 40)
    page.mouse.down()
    page.mouse.move(plot["x"] + 200, plot["y"] + 42, steps=8)
    page.mouse.up()
    zoomed = "() => document.querySelector('.live-figure').layout.xaxis.range"
    low, high = page.evaluate(zoomed)
    # Of 8,911 steps.
    assert high - low < 3000
    page.mouse.move(plot["x"] + 50, plot["y"] + 60)
    page.mouse.move(plot["x"] + 60, plot["y"] + 64)
    hover = chart.locator(".hoverlayer .hovertext").first
    expect(hover).to_be_attached()
    before = step(page)
    reaches(page, before + 21)
    assert hover.count() == 1
    expect(hidden).to_have_css("opacity", "0.5")
    assert page.evaluate(zoomed) == [low, high]
    # The figure follows the words by a quarter of a second.
    page.wait_for_function(f"() => Math.max(...document.querySelector('.live-figure')._fullData[1].x) > {before}")
    assert page.evaluate(zoomed) == [low, high]

    # Another browser is asked first, and the run goes on meanwhile.
    second.get_by_role("button", name="Stop").click()
    question = second.get_by_role("dialog")
    expect(question).to_contain_text(
        re.compile(rf"{identity} was started in another browser \(browser [0-9a-f]{{4}}\)")
    )
    before = step(page)
    page.wait_for_timeout(1500)
    assert step(page) > before
    question.get_by_role("button", name="Stop anyway").click()
    expect(question).to_have_count(0)
    expect(second.get_by_text(re.compile("^Stopped at step"))).to_be_visible(timeout=5000)
    expect(page.get_by_text(re.compile("^Stopped at step"))).to_be_visible(timeout=5000)
    expect(page.locator(".live-figure .main-svg").first).to_be_visible()
    second.context.close()


def test_a_run_is_its_browsers_and_a_stale_tab_is_told_that_it_is_gone(
    page: Page, chromium: Browser, school: str
) -> None:
    visit(page, f"{school}/train?net=4+8+M+8v+10v+A&epochs=19")
    identity = start(page)
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_text("Paused. Resume it")).to_be_visible(timeout=60_000)
    address = page.url

    # Another tab of this browser is not asked.
    tab = page.context.new_page()
    visit(tab, address)
    tab.get_by_role("button", name="Stop").click()
    expect(tab.get_by_text(re.compile("^Stopped at step"))).to_be_visible()
    tab.close()

    other = chromium.new_context(viewport={"width": 1280, "height": 1000}).new_page()
    visit(other, address)
    question = other.get_by_role("dialog")
    other.get_by_role("button", name="Delete").click()
    expect(question).to_contain_text("another browser")
    question.get_by_role("button", name="Cancel").click()
    expect(question).to_have_count(0)
    other.get_by_role("button", name="Delete").click()
    question.get_by_role("button", name="Delete anyway").click()
    deleted = other.get_by_text(f"{identity} was deleted.")
    expect(deleted).to_be_visible()

    # The first tab still shows it.
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_text(f"{identity} was deleted. ", exact=False)).to_be_visible()
    expect(page.get_by_text(f"The run {identity} is not known here")).to_be_visible()
    expect(page.get_by_role("button", name="Resume")).to_have_count(0)

    other.get_by_role("button", name="Undo").click()
    expect(deleted).to_have_count(0)
    expect(other.get_by_text(re.compile("^Stopped at step"))).to_be_visible()
    other.context.close()


def test_each_control_takes_effect_within_a_batch_and_is_seen(page: Page, school: str) -> None:
    visit(page, f"{school}/train?net=4+4+8+M+8+8+8+M+8v+10v+A&epochs=19")
    start(page)
    step(page)

    def press(name: str, seen: str) -> int:
        page.get_by_role("button", name=name, exact=True).click()
        expect(page.get_by_text(re.compile(seen)).first).to_be_visible()
        return step(page)

    paused = press("Pause", "· paused$")
    page.wait_for_timeout(1500)
    assert step(page) == paused
    assert press("One step", f"step {paused + 1:,} of .* · paused$") == paused + 1
    # The learning rate of the next batch is a tenth of what the schedule asks for.
    slider = page.get_by_role("slider", name=re.compile("Learning-rate multiplier"))
    slider.focus()
    slider.press("ArrowLeft")
    slider.press("ArrowLeft")
    settled(page)
    press("One step", f"step {paused + 2:,} of .* · paused$")
    rates = "() => document.querySelector('.live-figure')._fullData.at(-1).y"
    page.wait_for_function(f"() => ({rates})().at(-1) < 0.2 * ({rates})().at(-2)")
    press("Resume", "left$")
    reaches(page, paused + 31)

    page.get_by_role("button", name="Fork").click()
    expect(page.get_by_text(re.compile("same initial weights, same order of the images"))).to_be_visible()
    page.get_by_text("Recipe", exact=True).click()
    page.get_by_label("Learning rate", exact=True).fill("0.002")
    page.get_by_label("Learning rate", exact=True).press("Enter")
    expect(page.get_by_text("Changed: learning rate 0.015 → 0.002.")).to_be_visible()
    first = re.search(r"run=([\w-]+)", page.url)
    assert first
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text(re.compile("^Stopped at step"))).to_be_visible(timeout=5000)
    page.get_by_role("button", name="Start training").click()
    names = "() => document.querySelector('.live-figure')?._fullData?.map(trace => trace.name) ?? []"
    page.wait_for_function(f"() => ({names})().includes('{first[1]}: mean loss')")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text(re.compile("^Stopped"))).to_be_visible(timeout=10_000)


def test_a_digit_is_read_while_the_network_learns(page: Page, school: str) -> None:
    visit(page, f"{school}/train?net=4+4+8+M+8+8+8+M+8v+10v+A&epochs=19")
    start(page)
    step(page)
    go(page, DRAW)
    expect(page.get_by_role("combobox")).to_have_value(re.compile(r"^run-\d+-\w+, in training"))
    draw(page, SEVEN)
    expect(page.get_by_role("heading", name=re.compile(r"Prediction: \d"))).to_be_visible(timeout=15_000)
    learning = page.get_by_text(re.compile(r"weights after [\d,]+ steps"))
    first = learning.inner_text()
    expect(learning).not_to_have_text(first, timeout=15_000)
    go(page, TRAIN)
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text(re.compile("^Stopped at step"))).to_be_visible(timeout=5000)


def test_the_inside_and_the_errors_of_a_network_change_as_it_learns(page: Page, school: str) -> None:
    visit(page, f"{school}/train?net=4+4+8+M+8+8+8+M+8v+10v+A&epochs=19")
    start(page)
    step(page)
    go(page, INSPECT)
    expect(page.get_by_role("combobox")).to_have_value(re.compile(r"^run-\d+-\w+, in training"))
    page.get_by_role("radio", name="Receptive fields").click()
    field = page.get_by_role("img", name=re.compile("effective receptive field of layer 9"))
    seen = {field.get_attribute("src")}
    for _ in range(2):
        page.wait_for_function(
            "seen => !seen.includes(document.querySelector('img[alt*=\"of layer 9\"]')?.getAttribute('src'))",
            arg=list(seen),
        )
        seen.add(field.get_attribute("src"))
    go(page, ERRORS)
    measured = page.get_by_text(re.compile(r"measured after step [\d,]+, now at step"))
    first = measured.inner_text().partition(", now")[0]
    page.get_by_role("button", name="Measure again").click()
    expect(measured).not_to_contain_text(first)
    go(page, TRAIN)
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text(re.compile("^Stopped at step"))).to_be_visible(timeout=5000)


def test_a_run_that_fails_says_why_and_keeps_its_curves(page: Page, school: str) -> None:
    visit(page, f"{school}/train?net=64n+64n+M+64n+10+A&optimiser=SGD&learning_rate=10&schedule=constant&epochs=1")
    start(page)
    expect(page.get_by_role("alert")).to_contain_text("learning rate of 10 is too high", timeout=120_000)
    expect(page.locator(".live-figure .main-svg").first).to_be_visible()


def test_the_canvas_sends_a_stroke_when_the_pen_is_lifted(page: Page, url: str) -> None:
    """By its own button; left to itself it waits, in case another stroke follows."""
    visit(page, f"{url}/draw")
    send = page.get_by_role("button", name="Update the app with this drawing")
    expect(send).to_be_attached()
    send.evaluate("button => { window.sent = 0; button.addEventListener('click', () => window.sent++) }")
    for stroke in range(1, 4):
        draw(page, [(60.0 * stroke, 60.0), (60.0 * stroke, 200.0)])
        page.wait_for_function("strokes => window.sent === strokes", arg=stroke)
    settled(page)
    page.get_by_role("button", name="Undo").click()
    settled(page)
    assert page.evaluate("window.sent") == 3


def test_the_canvas_is_cleared_and_the_page_says_what_to_do(page: Page, url: str) -> None:
    visit(page, f"{url}/draw")
    draw(page, SEVEN)
    expect(page.get_by_role("heading", name="Prediction: 7")).to_be_visible(timeout=15_000)
    canvas = page.locator("canvas.upper-canvas")
    expect(canvas).to_have_attribute("width", "280")
    canvas.hover()
    page.get_by_role("button", name=re.compile("clear|reset|delete", re.IGNORECASE)).last.click()
    expect(page.get_by_role("heading", name="Nothing drawn yet")).to_be_visible(timeout=10_000)


def test_a_digit_is_drawn_by_touch_and_the_page_stays_where_it_is(chromium: Browser, url: str) -> None:
    context = chromium.new_context(viewport={"width": 390, "height": 700}, has_touch=True, is_mobile=True)
    tab = context.new_page()
    visit(tab, f"{url}/draw")
    canvas = tab.locator("canvas.upper-canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    before = tab.evaluate(SCROLLED)
    device = context.new_cdp_session(tab)
    (x, y), *rest = [(box["x"] + x, box["y"] + y) for x, y in SEVEN]
    device.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
    for to_x, to_y in rest:
        for part in range(1, 13):
            point = {"x": x + (to_x - x) * part / 12, "y": y + (to_y - y) * part / 12}
            device.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [point]})
        x, y = to_x, to_y
    device.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    expect(tab.get_by_role("heading", name="Prediction: 7")).to_be_visible()
    assert tab.evaluate(SCROLLED) == before
    context.close()


def test_photos_are_dropped_read_put_into_a_set_and_tested(
    page: Page, school: str, tmp_path: Path, mnist: Dataset
) -> None:
    files = [tmp_path / name for name in ("seven.jpg", "two.png", "text.png")]
    files[0].write_bytes(photo(mnist.test_images[0], "paper", 0))
    files[1].write_bytes(photo(mnist.test_images[1], "inverted tile", 0))
    files[2].write_text("a text that is called an image")
    visit(page, f"{school}/photos")
    page.locator("input[type=file]").set_input_files(files)
    expect(page.get_by_text("2 of 3 photos read, as 7, 2.")).to_be_visible()
    expect(page.get_by_test_id("stDataFrame")).to_be_visible()
    expect(page.get_by_role("alert").first).to_have_text(
        re.compile("text.png: It is not a PNG or JPEG image: save the photo as one of these.")
    )
    with page.expect_download() as download:
        page.get_by_role("button", name="Table as CSV").click()
    rows = list(csv.DictReader(download.value.path().open(encoding="utf-8")))
    assert [(row["file"], row["digit"]) for row in rows] == [("seven.jpg", "7"), ("two.png", "2"), ("text.png", "")]
    assert rows[2]["note"].startswith("It is not a PNG or JPEG image")

    page.get_by_role("button", name="New set").click()
    page.get_by_role("textbox", name="Name of the new set").fill("My class")
    page.get_by_role("button", name="Create").click()
    expect(page.get_by_text("The set is empty.")).to_be_visible()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Add the 2 photos").click()
    expect(page.get_by_text("2 digits, of 2,000 at most")).to_be_visible()
    page.get_by_role("button", name="Test the network on this set").click()
    expect(page.get_by_text("2 of 2 are classified correctly.")).to_be_visible()
    expect(page.get_by_role("img", name="All with the label 7: 1")).to_be_visible()
    assert violations(page) == []
    page.get_by_role("link", name="Draw a digit", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(DRAW.heading)


def settled_ticking(page: Page) -> None:
    """A page whose fragment ticks is hardly ever at rest: its progress is what to wait for."""
    expect(page.get_by_text(re.compile(r"step [\d,]+ of"))).to_be_visible(timeout=60_000)
