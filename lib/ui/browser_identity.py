"""Which browser a session belongs to: a browser owns the runs that it starts."""

from __future__ import annotations

import re
from hashlib import sha256
from uuid import uuid4

import streamlit as st

from lib.ui.assets import read_asset

COOKIE, TOKEN_KEY = "receptive_browser", "browser_token"

_COOKIE_COMPONENT = st.components.v2.component(COOKIE, html="", js=read_asset("browser_cookie.js"))


def browser_id() -> str:
    """Return the id of the browser that shows this page, 16 hexadecimal digits.

    It is a digest of the token in the browser's cookie, so that the owner stored in a run's file does not reveal the
    token. In a browser without cookies each tab has its own id, until it is reloaded.
    """
    return sha256(_token().encode()).hexdigest()[:16]


def set_browser_cookie() -> None:
    """Set the cookie of a browser that has none. Takes one pixel of height: call it at the end of a page."""

    def accept() -> None:
        _accept_token(st.session_state[COOKIE].token)

    if st.context.cookies.get(COOKIE) != _token():
        _COOKIE_COMPONENT(data={"name": COOKIE, "token": _token()}, key=COOKIE, height=1, on_token_change=accept)


def _token() -> str:
    # `st.context.cookies` are those of the moment at which the tab was opened.
    if TOKEN_KEY not in st.session_state:
        _accept_token(st.context.cookies.get(COOKIE) or uuid4().hex)
    return str(st.session_state.setdefault(TOKEN_KEY, uuid4().hex))


def _accept_token(token: object) -> None:
    if isinstance(token, str) and re.fullmatch("[0-9a-f]{32}", token):
        st.session_state[TOKEN_KEY] = token
