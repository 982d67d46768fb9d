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
_FROM_CALLBACK = "told by a callback"

log = logging.getLogger(__name__)


@contextmanager
def in_words() -> Iterator[None]:
    """Within, an error of memory ends the block and stands on the page as a sentence; every other error goes on."""
    try:
        yield
    except Exception as error:
        st.error(escaped(_sentence(error)), icon=":material/memory:")


def run(page: Callable[[], None]) -> None:
    """Run a page so; what a callback before it had to say comes first."""
    if told := st.session_state.pop(_FROM_CALLBACK, None):
        st.error(escaped(told), icon=":material/memory:")
    with in_words():
        page()


def fragment(function: Callable[P, None], run_every: float | None = None) -> Callable[P, None]:
    """`st.fragment` of a function that is guarded: a fragment that ticks runs without its page."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        with in_words():
            function(*args, **kwargs)

    return st.fragment(guarded, run_every=run_every)


def callback(function: Callable[P, None]) -> Callable[P, None]:
    """A widget's callback that is guarded: it runs before the page, which says then what was wrong."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except Exception as error:
            st.session_state[_FROM_CALLBACK] = _sentence(error)

    return guarded


def _sentence(error: Exception) -> str:
    """Raises the error itself where it is of another kind."""
    if isinstance(error, TooLargeError):
        return str(error)
    if is_out_of_memory(error):
        log.warning("Not enough memory: %s", error)
        return OUT_OF_MEMORY
    raise error
