"""The table of pages, their navigation, and what every page does first."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st
from streamlit.navigation.page import Page as StreamlitPage

from lib import ROOT
from lib.text.untrusted_text import escaped
from lib.ui.url_state import sync_url_state

LOGO = str(ROOT / "docs" / "logo.svg")
_NAVIGATED = "navigated"


@dataclass(frozen=True)
class Page:
    """A page of the app.

    `name` is that of its file in `pages/` and its URL path; the first page also has the empty path. `title` is its name
    in the menu and in the browser's tab, `heading` its first heading.
    """

    name: str
    title: str
    heading: str

    @property
    def file(self) -> str:
        """The path that Streamlit knows it by, relative to app.py."""
        return f"pages/{self.name}.py"

    @property
    def url_path(self) -> str:
        """Its path in the URL; empty for the first page."""
        return "" if self == PAGES[0] else self.name


DESIGN = Page("design", "Design", "Design a network")
TRAIN = Page("train", "Train", "Train a network")
DRAW = Page("draw", "Draw", "Draw a digit")
INSPECT = Page("inspect", "Inspect", "Inspect a network")
ERRORS = Page("errors", "Errors", "Errors on the test images")
PHOTOS = Page("photos", "Photos", "Photos and digit sets")
# The pages in the order of the menu; the first one has the root URL.
PAGES = (DESIGN, TRAIN, DRAW, INSPECT, ERRORS, PHOTOS)


def navigation() -> StreamlitPage:
    """Show the menu of all pages, and return the page to run.

    The pages have no icons: the browser would fetch the icon of its tab from a font server, and nothing here needs a
    network.
    """
    st.session_state[_NAVIGATED] = True
    return st.navigation(
        [st.Page(page.file, title=page.title, default=page == PAGES[0]) for page in PAGES], position="top"
    )


def setup_page(page: Page) -> None:
    """Start a page, in its first line: bring session and URL in step, and show the heading.

    If a page's own URL is the first request after the server has started, Streamlit runs the page without app.py: until
    some session has called `st.navigation`, it treats `pages/` as an app of the older kind. Then this function calls
    it, and the page is run again, through app.py.
    """
    if _NAVIGATED not in st.session_state:
        navigation()
        st.rerun()
    for sentence in sync_url_state(page.name):
        st.warning(escaped(sentence), icon=":material/link_off:")
    st.title(page.heading)
