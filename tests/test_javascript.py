"""The JavaScript of the components, in a blank page of a real Chromium: no server, no Streamlit."""

from __future__ import annotations

import itertools
import json
import math
import re
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Route

from lib.design.layers import INPUT_SHAPE
from lib.design.notation import parse
from lib.ui.assets import read_asset
from lib.ui.network_view import LayerView, views

ADDRESS = "http://components.test/"
SIDE = INPUT_SHAPE[1]
# Screen pixels of an image pixel, and of the side of a feature map's pixel, as in network_view.js.
CELL, MAP_PIXEL = 6, 2.5

MOUNT = """async ({name, html, data, keep}) => {
    if (!keep) document.body.innerHTML = `<main>${html}</main>`
    const { default: mount } = await import(`/${name}`)
    const sent = []
    window.sent = sent
    window.unmount = mount({
        data,
        parentElement: document.querySelector("main"),
        setStateValue: (key, value) => sent.push([key, value]),
        setTriggerValue: (key, value) => sent.push([key, value]),
    })
}"""


@pytest.fixture(scope="module")
def blank_tab(chromium: Browser) -> Iterator[Page]:
    """A tab whose only site is the components' files."""

    def answer(route: Route) -> None:
        name = urlsplit(route.request.url).path.removeprefix("/")
        if not name:
            route.fulfill(content_type="text/html", body="<!doctype html><title>Components</title>")
        elif name.endswith(".js") and "/" not in name:
            route.fulfill(content_type="text/javascript", body=read_asset(name))
        else:
            route.abort()

    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    context.route("**/*", answer)
    tab = context.new_page()
    yield tab
    context.close()


@pytest.fixture
def tab(blank_tab: Page) -> Iterator[Page]:
    """The tab, blank again; no script may raise."""
    raised: list[str] = []

    def note(error: object) -> None:
        raised.append(str(error))

    blank_tab.context.clear_cookies()
    blank_tab.goto(ADDRESS)
    blank_tab.on("pageerror", note)
    yield blank_tab
    blank_tab.remove_listener("pageerror", note)
    assert raised == []


def mount(tab: Page, name: str, data: dict[str, Any], html: str = "", keep: bool = False) -> None:
    """Mount a component as Streamlit does; with `keep`, as it does when the data of a mounted one change."""
    tab.evaluate(MOUNT, {"name": name, "html": html, "data": data, "keep": keep})


def sent(tab: Page) -> list[list[Any]]:
    """The states and triggers that the component mounted last has set."""
    found: list[list[Any]] = tab.evaluate("() => window.sent")
    return found


def show_network(
    tab: Page, notation: str, layer: int = 1, guessing: bool = False, keep: bool = False
) -> tuple[LayerView, ...]:
    """Draw a network over ten different images, and wait until it is drawn."""
    found = views(parse(notation))
    digits = [b64encode(bytes([25 * digit]) * SIDE**2).decode() for digit in range(10)]
    layers = [asdict(view) for view in found]
    data = {"layers": layers, "layer": layer, "digits": digits, "guessing": guessing}
    if keep:
        tab.evaluate("() => document.querySelector('.strip').replaceChildren()")
    mount(tab, "network_view.js", data, read_asset("network_view.html"), keep)
    tab.wait_for_function(f"() => document.querySelectorAll('[data-layer]').length === {len(found)}")
    return found


# What is drawn when positions of the output are clicked, one in each row, and one in each column.
EXPLORE = """([rows, columns]) => [...Array(Math.max(rows, columns)).keys()].map(number => {
    const row = Math.min(number, rows - 1), column = Math.min(number, columns - 1)
    const grid = document.querySelector(".positions"), box = grid.getBoundingClientRect()
    const at = (start, length, place, side) => start + (place + 0.5) / side * length
    grid.dispatchEvent(new PointerEvent("pointerdown", {
        clientX: at(box.x, box.width, column, columns), clientY: at(box.y, box.height, row, rows),
    }))
    const rect = node => ["x", "y", "width", "height"].map(name => Number(node.getAttribute(name)))
    const area = nodes => [...nodes].map(rect).reduce((sum, [, , width, height]) => sum + width * height, 0)
    return {
        place: [row, column],
        here: [...document.querySelectorAll(".position")].findIndex(cell => cell.matches(".here")),
        unseen: area(document.querySelectorAll(".field .unseen")),
        extent: rect(document.querySelector(".field .extent")),
        image: rect(document.querySelector(".field image")),
        text: document.querySelector(".field svg").getAttribute("aria-label"),
    }
})"""


@pytest.mark.parametrize(
    "notation",
    [
        "4 4 8 M 12 12 16 M 20v 10v A",
        "4k5s2d2p3 M3s2 8 10 A",
        "4k4p0 A2 8k2 6f 10f",
        "4p5 M5s5 10 A",
        "8d3 8d3 8d3 10 A",
        "8k3x1 8k1x5s1x2 M2x1 4p0x2 10v A",
        "4 add( 4 4x N / 4k5x ) R M2c cat( 4k3x1 / ) 10 A",
    ],
)
def test_each_position_of_each_layer_shows_its_receptive_field(tab: Page, notation: str) -> None:
    for number, view in enumerate(show_network(tab, notation)):
        tab.locator(f"[data-layer='{number}']").dispatch_event("click")
        _, rows, columns = view.shape
        drawn = tab.evaluate(EXPLORE, [rows, columns])
        assert len(drawn) == max(rows, columns)
        axes = (view.vertical, view.horizontal or view.vertical)
        for found in drawn:
            row, column = found["place"]
            assert found["here"] == row * columns + column
            affecting = math.prod(axis.input_masks[p].bit_count() for axis, p in zip(axes, found["place"], strict=True))
            assert found["unseen"] == CELL**2 * (SIDE**2 - affecting)
            # The extent is drawn at its place on the image, also where it reaches beyond it.
            (start_y, inside_y), (start_x, inside_x) = (
                (start, sum(0 <= start + offset < SIDE for offset in range(axis.receptive_field)))
                for axis, p in zip(axes, found["place"], strict=True)
                for start in [axis.center + p * axis.jump - (axis.receptive_field - 1) / 2]
            )
            x, y, width, height = found["extent"]
            left, top, _, _ = found["image"]
            assert (x - left, y - top) == (CELL * start_x, CELL * start_y)
            tall, wide = (axis.receptive_field for axis in axes)
            assert (height, width) == (CELL * tall, CELL * wide)
            outside = tall * wide - inside_y * inside_x
            assert f"{tall} × {wide} = {tall * wide:,} pixels" in found["text"]
            assert (f"{outside:,} of them" in found["text"]) == (outside > 0)
        unused = tab.locator(".position.unused").count()
        assert unused == rows * columns - math.prod(axis.used.count("1") for axis in axes)


def test_a_layer_is_drawn_to_scale_and_says_its_shape(tab: Page) -> None:
    found = show_network(tab, "4 M 16 M3s2 10 A", layer=3)
    corners = """(group, face) =>
        group.querySelector(`.${face}`).getAttribute("points").split(" ").map(pair => pair.split(",").map(Number))"""
    depths = []
    for number, view in enumerate(found):
        group = tab.locator(f"[data-layer='{number}']")
        channels, height, width = view.shape
        assert group.get_attribute("aria-label") == f"{view.label}, output {channels} × {height} × {width}"
        assert group.get_attribute("aria-pressed") == str(number == 3).lower()
        (left, top), (right, _), (_, bottom), _ = group.evaluate(corners, "front")
        depths.append((channels, right - left))
        assert bottom - top == pytest.approx(max(MAP_PIXEL * height, 3))
        (near, _), (far, _), *_ = group.evaluate(corners, "map")
        assert near == right
        assert far > near
    # The depth grows with the channels, from the image's one to the 16 of the widest layer.
    assert [depth for _, depth in sorted(depths)] == sorted(depth for _, depth in depths)
    assert len({depth for _, depth in depths}) == len({channels for channels, _ in depths})


CENTERS = """() => Object.fromEntries([...document.querySelectorAll("[data-layer]")].map(group => {
    const rect = name => Number(group.querySelector(".hit").getAttribute(name))
    return [group.dataset.layer, {x: rect("x"), y: rect("y"), width: rect("width"), height: rect("height")}]
}))"""


def test_branches_are_drawn_in_rows_with_lines_from_fork_to_join(tab: Page) -> None:
    found = show_network(tab, "8 add( cat( 4 / 4 4 ) / 8k1 ) add( 8 ) 10 A")
    boxes = tab.evaluate(CENTERS)
    columns, lanes = ({view.column for view in found}, {view.lane for view in found})
    for number, view in enumerate(found):
        box = boxes[str(number)]
        for other, seen in enumerate(found):
            beside = boxes[str(other)]
            assert (box["x"] == beside["x"]) == (view.column == seen.column)
            assert (box["y"] == beside["y"]) == (view.lane == seen.lane)
            if view.lane < seen.lane:
                assert box["y"] + box["height"] <= beside["y"]
    assert (len(columns), len(lanes)) == (10, 3)
    links = tab.locator(".link").evaluate_all(
        "all => all.map(path => [path.dataset.from, path.dataset.to, path.getAttribute('d')])"
    )
    expected = [(source, number) for number, view in enumerate(found) for source, _ in view.links]
    assert [(int(source), int(target)) for source, target, _ in links] == expected
    for source, target, path in links:
        # From the middle of one layer to that of the other.
        numbers = [float(number) for number in re.findall(r"-?[\d.]+", path)]
        start, stop = boxes[source], boxes[target]
        assert numbers[0] == pytest.approx(start["x"] + start["width"] / 2)
        assert numbers[-1] == pytest.approx(stop["x"] + stop["width"] / 2)
        assert start["y"] <= numbers[1] <= start["y"] + start["height"]
        assert stop["y"] <= numbers[-2] <= stop["y"] + stop["height"]
    # The line of the input itself runs below the layer that it skips.
    skip = next(path for source, target, path in links if (source, target) == ("7", "9"))
    lowest = max(float(y) for y in re.findall(r"V([\d.]+)", skip))
    assert lowest > boxes["8"]["y"] + boxes["8"]["height"]
    signs = tab.locator(".join .sign").all_text_contents()
    assert signs == ["‖", "+", "+"]
    assert tab.locator(".join .shape").first.text_content() == "8×28×28"


def test_a_row_of_layers_has_no_lines_and_long_tokens_do_not_overlap(tab: Page) -> None:
    found = show_network(tab, "16k3x1s1x2d2g1.gn4.leaky0.1 8 N R D5 M 10 A")
    assert tab.locator(".link").count() == 0
    tab.add_style_tag(content=f"main {{ --st-code-font: monospace }} {read_asset('network_view.css')}")
    ends = tab.locator(".token").evaluate_all("all => all.map(t => t.getBBox()).map(b => [b.x, b.x + b.width])")
    assert len(ends) == len(found)
    for (_, end), (start, _) in itertools.pairwise(ends):
        assert end < start
    # Layers that only change single values are thin.
    depth = """group => {
        const xs = group.querySelector(".front").getAttribute("points").split(" ").map(p => Number(p.split(",")[0]))
        return Math.max(...xs) - Math.min(...xs)
    }"""
    depths = {view.kind: tab.locator(f"[data-layer='{n}']").evaluate(depth) for n, view in enumerate(found)}
    assert depths["norm"] == pytest.approx(depths["activation"])
    assert depths["norm"] < depths["convolution"]


def test_a_map_that_is_no_square_has_a_face_and_a_grid_of_its_height_and_width(tab: Page) -> None:
    show_network(tab, "8s1x2 10 A", layer=1)
    corners = """group => [...group.querySelector(".map").getAttribute("points").split(" ")]
        .map(pair => pair.split(",").map(Number))"""
    (x, y), (far, up), _, (_, bottom) = tab.locator("[data-layer='1']").evaluate(corners)
    assert bottom - y == pytest.approx(MAP_PIXEL * 28)
    image_x, image_far = tab.locator("[data-layer='0']").evaluate(corners)[:2]
    # Half as wide as the image.
    assert far - x == pytest.approx((image_far[0] - image_x[0]) / 2)
    assert y - up == pytest.approx((image_x[1] - image_far[1]) / 2)
    box = tab.locator(".positions").bounding_box()
    assert box
    assert box["height"] / box["width"] == pytest.approx(2, rel=0.05)
    grid = tab.locator(".positions")
    assert "row 15, column 8 of 28 × 14" in (grid.get_attribute("aria-label") or "")
    grid.focus()
    for _ in range(20):
        tab.keyboard.press("ArrowRight")
    assert "column 14 of 28 × 14" in (grid.get_attribute("aria-label") or "")


def test_a_layer_is_chosen_by_click_and_by_keyboard_and_previewed_by_the_pointer(tab: Page) -> None:
    found = show_network(tab, "4 M 16 10 A", layer=1)
    name = tab.locator(".network-view .name")
    tab.locator("[data-layer='3']").dispatch_event("click")
    assert (sent(tab)[-1], name.inner_text()) == (["layer", 3], found[3].label)
    tab.locator("[data-layer='2']").focus()
    tab.keyboard.press("Enter")
    assert (sent(tab)[-1], name.inner_text()) == (["layer", 2], found[2].label)
    assert tab.locator("[data-layer='2']").evaluate("node => node === document.activeElement")
    tab.locator("[data-layer='1']").focus()
    tab.keyboard.press("Tab")
    tab.keyboard.press(" ")
    assert sent(tab)[-1] == ["layer", 2]
    before = len(sent(tab))
    tab.locator("[data-layer='4']").dispatch_event("pointerenter")
    assert name.inner_text() == found[4].label
    tab.locator("[data-layer='4']").dispatch_event("pointerleave")
    assert (name.inner_text(), len(sent(tab))) == (found[2].label, before)


def test_the_arrow_keys_move_the_position_and_stop_at_the_edges(tab: Page) -> None:
    show_network(tab, "4 M 10 A", layer=2)
    grid = tab.locator(".positions")
    position = (
        "() => document.querySelector('.positions').getAttribute('aria-label').match(/row (\\d+), column (\\d+)/)"
    )
    grid.focus()
    for key, expected in (("ArrowUp", [7, 8]), ("ArrowLeft", [7, 7]), ("ArrowDown", [8, 7]), ("ArrowRight", [8, 8])):
        tab.keyboard.press(key)
        _, row, column = tab.evaluate(position)
        assert [int(row), int(column)] == expected, key
    for _ in range(14):
        tab.keyboard.press("ArrowDown")
    assert tab.evaluate(position)[1:] == ["14", "8"]
    assert grid.evaluate("node => node === document.activeElement")


def test_another_network_keeps_the_place_on_the_map_and_the_digit(tab: Page) -> None:
    show_network(tab, "4 10 A", layer=1)
    tab.locator(".positions").focus()
    for _ in range(14):
        tab.keyboard.press("ArrowUp")
    tab.get_by_role("button", name="Digit 7").click()
    show_network(tab, "4 M 8 M 10 A", layer=4, keep=True)
    label = tab.locator(".positions").get_attribute("aria-label")
    assert label
    assert "row 1, column 4 of 7" in label
    pressed = tab.locator(".digits button").evaluate_all("all => all.map(each => each.getAttribute('aria-pressed'))")
    assert pressed == [str(digit == 7).lower() for digit in range(10)]


def test_nothing_is_revealed_while_the_class_guesses(tab: Page) -> None:
    show_network(tab, "4 M 10 A", guessing=True)
    assert not tab.locator(".explored").is_visible()
    assert tab.locator(".formulas").inner_text() == ""
    show_network(tab, "4 M 10 A", keep=True)
    assert tab.locator(".explored").is_visible()
    assert "Receptive field" in tab.locator(".formulas").inner_text()


def test_of_two_networks_in_quick_succession_only_the_last_is_drawn(tab: Page) -> None:
    layers = [asdict(view) for view in views(parse("4 M 10 A"))]
    data = {"layers": layers, "layer": 1, "digits": [], "guessing": True}
    mount(tab, "network_view.js", {**data, "layers": layers[:2]}, read_asset("network_view.html"))
    tab.wait_for_function("() => document.querySelector('[data-layer]')")
    tab.evaluate("""() => {
        window.counts = []
        const strip = document.querySelector(".strip")
        new MutationObserver(() => window.counts.push(strip.querySelectorAll("[data-layer]").length))
            .observe(strip, { childList: true })
    }""")
    # Both are mounted before a frame is drawn.
    tab.evaluate(
        "() => { window.frames_held = []; window.requestAnimationFrame = draw => window.frames_held.push(draw) }"
    )
    mount(tab, "network_view.js", {**data, "layers": layers[:3]}, keep=True)
    mount(tab, "network_view.js", data, keep=True)
    tab.evaluate("() => window.frames_held.forEach(draw => draw())")
    tab.wait_for_function("() => window.counts.length > 0")
    tab.evaluate("() => new Promise(resolve => setTimeout(resolve, 20))")
    assert tab.evaluate("() => window.counts") == [len(layers)]


HOST = """<style>.live-figure {
    --st-text-color: #111111; --st-border-color: #222222; --st-secondary-background-color: #333333;
    --st-font: serif; --st-chart-categorical-colors: #aa0000,#00aa00;
}</style><div class="live-figure" role="img"></div>"""
STANDARD = {"palette": ["#0000ff", "#ffff00"], "surface": "#f0f0f0"}
# In place of plotly.min.js: notes the figures that are drawn, and adds to the host what Plotly adds.
PLOTLY = """() => {
    window.drawn = []
    window.purged = 0
    window.Plotly = {
        react: (host, data, layout, config) => {
            host.on = (event, listener) => { host.picked = listener }
            host.removeAllListeners = () => { host.picked = null }
            window.drawn.push({data, layout, config})
        },
        purge: () => { window.purged++ },
    }
}"""


def figure_data(figure: dict[str, Any], **changes: Any) -> dict[str, Any]:
    defaults = {"height": 300, "revision": "a", "alt": "A chart", "tools": False, "lazy": False}
    defaults |= {"atOnce": True, "picks": False}
    return {"figure": json.dumps(figure), "standard": STANDARD, "plotly": "plotly.js", **defaults, **changes}


def show_figure(tab: Page, figure: dict[str, Any], keep: bool = False, **changes: Any) -> None:
    if not keep:
        tab.evaluate(PLOTLY)
    mount(tab, "live_figure.js", figure_data(figure, **changes), HOST, keep)


def drawn(tab: Page, count: int = 1) -> list[dict[str, Any]]:
    """The figures that were drawn, as soon as there are `count`."""
    tab.wait_for_function(f"() => window.drawn.length >= {count}")
    found: list[dict[str, Any]] = tab.evaluate("() => window.drawn")
    return found


def test_a_figure_gets_the_colors_of_the_page(tab: Page) -> None:
    figure = {
        "data": [
            {"line": {"color": "#0000ff", "width": 2}, "marker": {"color": ["#ffff00", "#123456"]}, "y": [1]},
            {"textfont": {"color": "#f0f0f0"}, "colorscale": [[0, "#f0f0f0"], [1, "#0000ff"]]},
        ],
        "layout": {
            "xaxis": {"title": "x"},
            "yaxis2": {"gridcolor": "none"},
            "shapes": [{"line": {"color": "#ffff00"}}],
        },
    }
    show_figure(tab, figure)
    ((found),) = drawn(tab)
    first, second = found["data"]
    assert first["line"] == {"color": "#aa0000", "width": 2}
    # A color that is not the theme's own stays.
    assert first["marker"] == {"color": ["#00aa00", "#123456"]}
    assert first["y"] == [1]
    assert second["textfont"] == {"color": "#333333"}
    assert second["colorscale"] == [[0, "#333333"], [1, "#aa0000"]]
    layout = found["layout"]
    assert layout["shapes"] == [{"line": {"color": "#00aa00"}}]
    assert layout["font"] == {"family": "serif", "color": "#111111", "size": 14}
    assert layout["colorway"] == ["#aa0000", "#00aa00"]
    assert layout["xaxis"]["gridcolor"] == "#222222"
    assert layout["yaxis2"]["gridcolor"] == "none"
    assert (layout["height"], layout["uirevision"]) == (300, "a")
    host = tab.locator(".live-figure")
    assert host.get_attribute("aria-label") == "A chart"
    assert host.evaluate("node => node.style.height") == "300px"


def test_of_figures_in_quick_succession_only_the_last_is_drawn(tab: Page) -> None:
    show_figure(tab, {"data": [], "layout": {"title": "first"}}, atOnce=False)
    show_figure(tab, {"data": [], "layout": {"title": "second"}}, keep=True, atOnce=False)
    assert [found["layout"]["title"] for found in drawn(tab)] == ["second"]
    show_figure(tab, {"data": [], "layout": {"title": "third"}}, keep=True)
    assert [found["layout"]["title"] for found in drawn(tab, 2)] == ["second", "third"]


def test_a_lazy_figure_is_drawn_when_it_is_on_the_screen_and_only_as_it_is_then(tab: Page) -> None:
    tab.evaluate(PLOTLY)
    below = HOST.replace('<div class="live-figure"', '<p style="height: 5000px"></p><div class="live-figure"')
    for title in ("first", "second"):
        figure = figure_data({"data": [], "layout": {"title": title}}, lazy=True)
        mount(tab, "live_figure.js", figure, below, keep=title == "second")
    tab.wait_for_timeout(300)
    assert tab.evaluate("() => window.drawn") == []
    tab.locator(".live-figure").scroll_into_view_if_needed()
    assert [found["layout"]["title"] for found in drawn(tab)] == ["second"]
    tab.wait_for_timeout(300)
    assert len(drawn(tab)) == 1


def test_a_click_on_a_point_is_sent_as_text_if_the_page_asks_for_it(tab: Page) -> None:
    show_figure(tab, {"data": [], "layout": {}}, picks=True)
    drawn(tab)
    tab.evaluate("() => document.querySelector('.live-figure').picked({points: [{x: 3, y: 'seven'}]})")
    assert sent(tab) == [["picked", ["3", "seven"]]]
    show_figure(tab, {"data": [], "layout": {}}, keep=True)
    drawn(tab, 2)
    assert tab.evaluate("() => document.querySelector('.live-figure').picked") is None


def test_a_figure_that_is_gone_is_purged_and_not_drawn(tab: Page) -> None:
    show_figure(tab, {"data": [], "layout": {}}, atOnce=False)
    tab.evaluate("() => { window.unmount(); document.querySelector('main').remove() }")
    # As long as the component waits before it draws.
    tab.evaluate("() => new Promise(resolve => setTimeout(resolve, 350))")
    assert tab.evaluate("() => [window.drawn.length, window.purged]") == [0, 1]


def test_a_script_that_cannot_be_loaded_is_a_sentence(tab: Page) -> None:
    mount(tab, "live_figure.js", figure_data({"data": [], "layout": {}}, plotly="/none/plotly"), HOST)
    tab.wait_for_function("() => document.querySelector('.live-figure').textContent.length > 0")
    assert tab.locator(".live-figure").inner_text() == (
        "The charts could not be loaded from the server. Reload the page."
    )


CANVASES = """<div class="dc-root" id="one"><div class="dc-container">draw here</div>
    <button aria-label="Update the app with this drawing" onclick="clicks.push('one')">send</button></div>
    <div class="dc-root" id="two"><div class="dc-container">or here</div>
    <button aria-label="Update the app with this drawing" onclick="clicks.push('two')">send</button></div>
    <p>elsewhere</p>"""


def test_a_drawing_is_sent_when_the_pen_is_lifted_wherever_that_is(tab: Page) -> None:
    tab.evaluate("() => { window.clicks = [] }")
    mount(tab, "pen_lift.js", {}, CANVASES)
    act = """async ([down, up, kind]) => {
        const send = (selector, type) =>
            document.querySelector(selector).dispatchEvent(new Event(type, {bubbles: true}))
        send(down, kind === "mouse" ? "mousedown" : "touchstart")
        send(up, kind === "mouse" ? "mouseup" : "touchend")
        await new Promise(resolve => setTimeout(resolve, 20))
        return window.clicks
    }"""
    assert tab.evaluate(act, ["#one .dc-container", "#one .dc-container", "mouse"]) == ["one"]
    assert tab.evaluate(act, ["#two .dc-container", "p", "touch"]) == ["one", "two"]
    # On the toolbar, and beside the canvas.
    assert tab.evaluate(act, ["#one button", "#one button", "mouse"]) == ["one", "two"]
    assert tab.evaluate(act, ["p", "#one .dc-container", "mouse"]) == ["one", "two"]
    tab.evaluate("() => document.querySelector('#one button').remove()")
    assert tab.evaluate(act, ["#one .dc-container", "p", "mouse"]) == ["one", "two"]
    tab.evaluate("() => window.unmount()")
    assert tab.evaluate(act, ["#two .dc-container", "p", "mouse"]) == ["one", "two"]


def test_a_browser_gets_a_cookie_once_and_another_tabs_cookie_counts(tab: Page) -> None:
    def cookies() -> list[tuple[str | None, str | None, str | None]]:
        return [(cookie.get("name"), cookie.get("value"), cookie.get("sameSite")) for cookie in tab.context.cookies()]

    mount(tab, "browser_cookie.js", {"name": "browser", "token": "first"})
    assert cookies() == [("browser", "first", "Strict")]
    mount(tab, "browser_cookie.js", {"name": "browser", "token": "first"})
    assert sent(tab) == []
    mount(tab, "browser_cookie.js", {"name": "browser", "token": "second"})
    assert sent(tab) == [["token", "first"]]
    assert cookies() == [("browser", "first", "Strict")]
    # A cookie whose name only begins alike is another one.
    mount(tab, "browser_cookie.js", {"name": "brow", "token": "third"})
    assert sent(tab) == []
    assert sorted(cookies()) == [("brow", "third", "Strict"), ("browser", "first", "Strict")]
