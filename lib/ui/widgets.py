"""Widgets that several pages share: live figure, network view, drawing canvas, and the network's input."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import TYPE_CHECKING

import streamlit as st

from lib import ROOT
from lib.files import atomic_file
from lib.text.untrusted_text import escaped
from lib.ui import url_state
from lib.ui.assets import read_asset
from lib.ui.charts.colors import PALETTE, SURFACE
from lib.ui.network_view import default_view, views

if TYPE_CHECKING:
    from torch import Tensor

    from lib.design.layers import Architecture

STATIC_FOLDER = ROOT / "static"
CANVAS_SIZE, STROKE_WIDTH = 280, 22
# A screen of high density draws the canvas with more pixels than CANVAS_SIZE.
MAX_CANVAS_PIXELS = 4 * CANVAS_SIZE

_LIVE_FIGURE = st.components.v2.component(
    "receptive_live_figure",
    html='<div class="live-figure" role="img"></div>',
    # Not isolated: Plotly writes its style sheet to the document's head, where a shadow root would not see it.
    isolate_styles=False,
    js=read_asset("live_figure.js"),
)
_NETWORK_VIEW = st.components.v2.component(
    "receptive_network_view",
    html=read_asset("network_view.html"),
    css=read_asset("network_view.css"),
    js=read_asset("network_view.js"),
)
_PEN_LIFT = st.components.v2.component("receptive_pen_lift", html="", js=read_asset("pen_lift.js"))


def network_input(help_text: str) -> str:
    """Show the input of the network's notation, the URL's `net`, and return its text.

    If the URL hides the input, the text still counts.
    """
    if url_state.hidden("network"):
        return str(st.session_state.net)
    return st.text_input("The network in one line", key="net", max_chars=url_state.MAX_LENGTH, help=help_text)


def preset_pills(label: str, titles: Sequence[str], *, key: str, on_change: Callable[[], None]) -> None:
    """Show a row of presets; at most one of them is selected."""
    # Streamlit writes the selected pill in the primary color. On the dark page no color is readable both there and
    # behind the white text of a button; gray is readable.
    st.pills(label, titles, key=key, on_change=on_change, format_func=":gray[{}]".format)


def live_figure(
    figure: str,
    *,
    key: str,
    height: int,
    alt: str,
    revision: str = "",
    tools: bool = True,
    at_once: bool = False,
    lazy: bool = False,
    on_pick: Callable[[str, str], None] | None = None,
) -> None:
    """Draw a Plotly figure, given as JSON, that keeps its zoom, hover and hidden traces while its data grow.

    `st.plotly_chart` would mount a new chart whenever the data change.

    `revision` names what is shown: another name resets the zoom and the hidden traces. `tools` shows the buttons to
    zoom and save. `at_once` draws the figure before the rest of the page, for a result that the reader waits for;
    `lazy` only while it is on the screen, for one of many points that is usually below it.
    `on_pick` is called with x and y, as text, of a clicked point. `height` is in pixels; `alt` describes the figure to
    screen readers.
    """

    def pick() -> None:
        match st.session_state[key].picked:
            case [str(x), str(y)] if on_pick:
                on_pick(x, y)

    try:
        script = plotly_js_url()
    except OSError as error:
        st.error(
            f"The chart cannot be drawn: its script could not be written to {escaped(str(STATIC_FOLDER))} "
            f"({error.strerror}). Make that folder writable, with 5 MB free, and reload the page.",
            icon=":material/error:",
        )
        return
    _LIVE_FIGURE(
        data={
            "figure": figure,
            "standard": {"palette": PALETTE, "surface": SURFACE},
            "plotly": script,
            "height": height,
            "revision": revision,
            "alt": alt,
            "tools": tools,
            "atOnce": at_once,
            "lazy": lazy,
            "picks": on_pick is not None,
        },
        key=key,
        height=height,
        on_picked_change=pick,
    )


@st.cache_resource(show_spinner=False)
def plotly_js_url() -> str:
    """Return the URL, relative to the app's, of the plotly.min.js from the installed plotly package.

    Raises OSError if the script cannot be written to STATIC_FOLDER.
    """
    from plotly.offline import get_plotlyjs, get_plotlyjs_version

    name = f"plotly-{get_plotlyjs_version()}.min.js"
    if not (STATIC_FOLDER / name).is_file():
        atomic_file.write(STATIC_FOLDER / name, get_plotlyjs().encode())
    return f"app/static/{name}"


def network_view(architecture: Architecture, digits: Sequence[bytes], *, guessing: bool) -> None:
    """Draw the network to scale, and over a digit the receptive field of the layer that the URL's `layer` names.

    `digits` are ten images of 28 × 28 bytes. While the class is `guessing`, receptive fields and formulas are left out.
    """

    def choose() -> None:
        st.session_state.layer = st.session_state.network_view.layer

    layers = views(architecture)
    chosen = st.session_state.layer
    if chosen == url_state.AUTO_LAYER:
        chosen = default_view(layers)
    _NETWORK_VIEW(
        data={
            "layers": _views_as_data(architecture),
            "layer": min(chosen, len(layers) - 1),
            "digits": [b64encode(digit).decode() for digit in digits],
            "guessing": guessing,
        },
        key="network_view",
        on_layer_change=choose,
    )


@lru_cache(maxsize=8)
def _views_as_data(architecture: Architecture) -> list[dict[str, object]]:
    return [asdict(layer) for layer in views(architecture)]


def drawing_canvas(*, key: str) -> Tensor | None:
    """Show a square canvas, white strokes on black, and return the drawing.

    Returns float (H, W), 0 to 1, or None while nothing is drawn. The page is run after each finished stroke. The
    component's own toolbar undoes, redoes and clears.
    """
    import torch
    from PIL import Image
    from streamlit_drawable_canvas import st_canvas

    from lib.inference.preprocess import to_grayscale

    with st.container(gap=None):
        result = st_canvas(
            stroke_width=STROKE_WIDTH,
            stroke_color="#fff",
            background_color="#000",
            width=CANVAS_SIZE,
            height=CANVAS_SIZE,
            return_image_data=True,
            key=key,
        )
        _PEN_LIFT(key=f"{key}_pen_lift", height=1)
    try:
        pixels = result.image_data
        strokes = (result.json_data or {}).get("objects")
    except (ValueError, OSError, AttributeError, Image.DecompressionBombError):
        # The browser may send anything.
        return None
    if not strokes or pixels is None or pixels.ndim != 3 or max(pixels.shape) > MAX_CANVAS_PIXELS:
        return None
    return to_grayscale(torch.from_numpy(pixels.copy()))
