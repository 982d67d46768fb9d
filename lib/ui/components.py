"""Streamlit components: navigation, live figure, network view, drawing canvas."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import streamlit as st
from streamlit import net_util
from streamlit.navigation.page import Page as StreamlitPage

from lib import ROOT
from lib.text.untrusted_text import escaped
from lib.ui import url_state
from lib.ui.network_view import default_view, views

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from torch import Tensor

    from lib.design.layers import Architecture

LOGO = str(ROOT / "docs" / "logo.svg")
ASSETS = Path(__file__).parent / "assets"
NAVIGATED = "navigated"
BROWSER_COOKIE, BROWSER_TOKEN = "receptive_browser", "browser_token"
CANVAS_SIZE = 280
STROKE_WIDTH = 22
# A screen of high density draws the canvas larger than it is.
MAX_CANVAS_PIXELS = 4 * CANVAS_SIZE

# Streamlit compares the origin of a foreign page that tries to connect with this machine's external address. It asks
# checkip.amazonaws.com for that at every try, and answers nobody for up to two seconds; no option turns it off. Without
# an address to compare with, the page is refused at once and no request leaves the machine.
net_util.get_external_ip = lambda: None

_LIVE_FIGURE = st.components.v2.component(
    "receptive_live_figure",
    html='<div class="live-figure" role="img"></div>',
    # Not isolated: Plotly writes its style sheet to the document's head, where a shadow root would not see it.
    isolate_styles=False,
    js=(ASSETS / "live_figure.js").read_text(encoding="utf-8"),
)
_NETWORK_VIEW = st.components.v2.component(
    "receptive_network_view",
    html=(ASSETS / "network_view.html").read_text(encoding="utf-8"),
    css=(ASSETS / "network_view.css").read_text(encoding="utf-8"),
    js=(ASSETS / "network_view.js").read_text(encoding="utf-8"),
)
_BROWSER_COOKIE = st.components.v2.component(
    BROWSER_COOKIE, html="", js=(ASSETS / "browser_cookie.js").read_text(encoding="utf-8")
)
_PEN_LIFT = st.components.v2.component(
    "receptive_pen_lift", html="", js=(ASSETS / "pen_lift.js").read_text(encoding="utf-8")
)


def navigation() -> StreamlitPage:
    """The pages and their menu; returns the one to run.

    No icons: the browser would fetch a page's icon from a font server for its tab, and nothing here needs a network.
    """
    st.session_state[NAVIGATED] = True
    return st.navigation(
        [
            st.Page("pages/design.py", title="Design", default=True),
            st.Page("pages/train.py", title="Train"),
            st.Page("pages/draw.py", title="Draw"),
            st.Page("pages/inspect.py", title="Inside"),
            st.Page("pages/errors.py", title="Errors"),
            st.Page("pages/photos.py", title="Your digits"),
        ],
        position="top",
    )


def setup_page(page: str) -> None:
    """First line of every page, with its name: address and session in step, and a first visitor through app.py.

    Until some session has called `st.navigation`, Streamlit takes the folder `pages/` for an app of its older kind and
    runs a page alone when its own URL is the first hit. This call tells it otherwise for the life of the process; the
    rerun then starts at app.py.
    """
    if NAVIGATED not in st.session_state:
        navigation()
        st.rerun()
    for sentence in url_state.sync_url_state(page):
        st.warning(escaped(sentence), icon=":material/link_off:")


def browser() -> str:
    """The browser that shows this page, as 16 hexadecimal digits: it owns the runs that it starts.

    A digest of the token in its cookie: what a run's file says of its owner does not let others take its place. Where
    a browser keeps no cookies, each of its tabs is a browser, until it is reloaded.
    """
    return sha256(_browser_token().encode()).hexdigest()[:16]


def browser_cookie() -> None:
    """Set this browser's cookie where it has none; of no height, for the end of a page."""

    def take() -> None:
        _accept(st.session_state[BROWSER_COOKIE].token)

    if st.context.cookies.get(BROWSER_COOKIE) != _browser_token():
        _BROWSER_COOKIE(
            data={"name": BROWSER_COOKIE, "token": _browser_token()},
            key=BROWSER_COOKIE,
            height=1,
            on_token_change=take,
        )


def _browser_token() -> str:
    # The cookies are those of the moment at which the tab was opened.
    if BROWSER_TOKEN not in st.session_state:
        _accept(st.context.cookies.get(BROWSER_COOKIE) or uuid4().hex)
    return str(st.session_state.setdefault(BROWSER_TOKEN, uuid4().hex))


def _accept(token: object) -> None:
    if isinstance(token, str) and re.fullmatch("[0-9a-f]{32}", token):
        st.session_state[BROWSER_TOKEN] = token


def network_input(help_text: str) -> str:
    """The network's text, in the address as `net`; hidden, it still counts."""
    if url_state.hidden("network"):
        return str(st.session_state.net)
    return st.text_input("The network in one line", key="net", max_chars=url_state.MAX_LENGTH, help=help_text)


def preset_pills(label: str, titles: Sequence[str], *, key: str, on_change: Callable[[], None]) -> None:
    """A row of presets, none or one of them chosen.

    Streamlit writes the chosen one in the primary colour, which cannot be read both there and, dark, below the white of
    a button; grey can.
    """
    st.pills(label, titles, key=key, on_change=on_change, format_func=":gray[{}]".format)


def live_figure(
    figure: go.Figure | str,
    *,
    key: str,
    height: int,
    alt: str,
    revision: str = "",
    tools: bool = True,
    at_once: bool = False,
    on_pick: Callable[[str, str], None] | None = None,
) -> None:
    """Draw a Plotly figure, or its JSON, that keeps its zoom, hover and hidden traces while its data grow.

    `revision` names what is shown: another name resets what the reader changed. `tools` shows the buttons that zoom and
    save. `at_once` draws it before the rest of the page, for the answer that somebody waits for. `on_pick` is called
    with x and y, as text, of what is clicked. `st.plotly_chart` would mount a new chart at every change of the data.
    """
    from lib.ui.charts import PALETTE, SURFACE

    def pick() -> None:
        match st.session_state[key].picked:
            case [str(x), str(y)] if on_pick:
                on_pick(x, y)

    from lib.ui.cache import STATIC_FOLDER, plotly_js_url

    try:
        script = plotly_js_url()
    except OSError as error:
        st.error(
            f"The chart cannot be drawn: its script could not be put into {escaped(str(STATIC_FOLDER))} "
            f"({error.strerror}). Make that folder writable, with 5 MB free, and reload the page.",
            icon=":material/error:",
        )
        return
    _LIVE_FIGURE(
        data={
            "figure": figure if isinstance(figure, str) else figure.to_json(),
            "standard": {"palette": PALETTE, "surface": SURFACE},
            "plotly": script,
            "height": height,
            "revision": revision,
            "alt": alt,
            "tools": tools,
            "atOnce": at_once,
            "picks": on_pick is not None,
        },
        key=key,
        height=height,
        on_picked_change=pick,
    )


def network_view(architecture: Architecture, digits: Sequence[bytes], *, guessing: bool) -> None:
    """The network drawn to scale, and the field of the layer that the session's `layer` names over a digit.

    `digits` are ten images of 28 rows of 28 bytes. While the class is `guessing`, fields and formulas are left out.
    """

    def choose() -> None:
        st.session_state.layer = st.session_state.network_view.layer

    layers = views(architecture)
    chosen = st.session_state.layer
    if chosen == url_state.AUTO_LAYER:
        chosen = default_view(layers)
    _NETWORK_VIEW(
        data={
            "layers": _as_data(architecture),
            "layer": min(chosen, len(layers) - 1),
            "digits": [b64encode(digit).decode() for digit in digits],
            "guessing": guessing,
        },
        key="network_view",
        on_layer_change=choose,
    )


@lru_cache(maxsize=8)
def _as_data(architecture: Architecture) -> list[dict[str, object]]:
    """The views for the browser; nobody writes to them."""
    return [asdict(layer) for layer in views(architecture)]


def drawing_canvas(*, key: str) -> Tensor | None:
    """A square canvas, white strokes on black; returns the drawing as `lib.digits.ink` gives it, None while empty.

    One value a finished stroke. The component's own toolbar undoes, redoes and clears.
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
        # Both come from the browser: what is not a drawing is none.
        return None
    if not strokes or pixels is None or pixels.ndim != 3 or max(pixels.shape) > MAX_CANVAS_PIXELS:
        return None
    return to_grayscale(torch.from_numpy(pixels.copy()))
