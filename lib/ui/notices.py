"""Messages that a callback leaves for the page that runs after it: an error, or the offer to undo a deletion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import streamlit as st

from lib.text.untrusted_text import escaped

_ERROR, _DELETION = "callback_error", "deletion"


@dataclass(frozen=True)
class _Deletion:
    name: str
    undo: Callable[..., None]
    args: tuple[Any, ...]


def leave_error(sentence: str) -> None:
    """Let the next `show_notices` show this error, escaped."""
    st.session_state[_ERROR] = sentence


def has_error() -> bool:
    """Whether an error waits for `show_notices`."""
    return _ERROR in st.session_state


def leave_deletion(name: str, undo: Callable[..., None], *args: Any) -> None:
    """Let the next `show_notices` say that something was deleted, and offer to undo it by calling `undo(*args)`."""
    st.session_state[_DELETION] = _Deletion(name, undo, args)


def show_notices() -> None:
    """Show what callbacks have left. It is shown once: after any other action, undoing would surprise."""
    sentence = st.session_state.pop(_ERROR, None)
    if sentence:
        st.error(escaped(sentence), icon=":material/error:")
    deletion = cast("_Deletion | None", st.session_state.pop(_DELETION, None))
    if deletion:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.info(f"{escaped(deletion.name)} was deleted.", icon=":material/delete:")
            st.button("Undo", icon=":material/undo:", on_click=deletion.undo, args=deletion.args)
