"""Show errors of size and memory as a sentence: in a page, a fragment and a callback."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec

import streamlit as st

from lib.nn.memory import OUT_OF_MEMORY, TooLargeError, is_out_of_memory
from lib.text.untrusted_text import escaped

P = ParamSpec("P")
_FROM_CALLBACK = "error of a callback"

log = logging.getLogger(__name__)


@contextmanager
def in_words() -> Iterator[None]:
    """Catch errors of size and memory in the block and show them as a sentence; other errors propagate."""
    try:
        yield
    except Exception as error:
        st.error(escaped(_sentence(error)), icon=":material/memory:")


def run(page: Callable[[], None]) -> None:
    """Run a page in `in_words`, and first show the error of a callback, if there was one."""
    if message := st.session_state.pop(_FROM_CALLBACK, None):
        st.error(escaped(message), icon=":material/memory:")
    with in_words():
        page()


def fragment(function: Callable[P, None], run_every: float | None = None) -> Callable[P, None]:
    """Like `st.fragment`, with the function guarded: a fragment with `run_every` runs without its page."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        with in_words():
            function(*args, **kwargs)

    return st.fragment(guarded, run_every=run_every)


def callback(function: Callable[P, None]) -> Callable[P, None]:
    """Guard a widget's callback. It runs before the page, which then shows the error."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except Exception as error:
            st.session_state[_FROM_CALLBACK] = _sentence(error)

    return guarded


def _sentence(error: Exception) -> str:
    """Return the message for an error of size or memory. Raises any other error again."""
    if isinstance(error, TooLargeError):
        return str(error)
    if is_out_of_memory(error):
        log.warning("Not enough memory: %s", error)
        return OUT_OF_MEMORY
    raise error
