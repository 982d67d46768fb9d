"""Keep the state of the pages in the URL: one table drives reading and writing.

Streamlit's own binding of widgets to the address forgets a value that came with the address as soon as the page
changes. Here every value lives in the session under its key, outlives a change of page, and is written to the address
at each run unless it is the default.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass

import streamlit as st

from lib.design.layers import MAX_LAYERS
from lib.design.presets import PRESETS
from lib.design.recipe import FIELDS as RECIPE_FIELDS
from lib.design.recipe import RECIPES, Recipe, recipe_from_values

# Characters of a text in the address. A ResNet-50 takes 550, and MAX_LAYERS layers have 11 each. Two networks, escaped,
# stay below the 8 KB that servers in front of the app commonly take.
MAX_LENGTH = 3000
# The parts that `hide` in the URL may hide, on any page: name -> label.
HIDEABLE_SECTIONS = {
    "presets": "The presets",
    "network": "The network in one line",
    "verdicts": "The four limits",
    "estimate": "The estimated time",
    "drawing": "The drawing of the network",
    "layers": "Widths and edits",
    "table": "The table",
    "costs": "The chart of parameters and MACs",
    "public": "The public results",
    "compare": "Compare",
    "take": "Export",
    "guess": "The switch to guess first",
    "recipe": "The recipe",
    "teacher": "For the teacher",
}
TEST_IMAGES = 10_000
# No layer is chosen: the page chooses the layer whose receptive field is drawn.
AUTO_LAYER = -1
_FOLLOWED = "address"


@dataclass(frozen=True)
class Field:
    """A value under the key of its widget. `read` parses the text in the URL and raises ValueError if it is invalid.

    `expected` is a sentence for the user that says what is valid.
    """

    key: str
    default: object
    read: Callable[[str], object]
    expected: str = ""


@dataclass(frozen=True)
class _Followed:
    """The state of the last script run: its page, the URL parameters that it wrote, and their values."""

    page: str
    shown: dict[str, str]
    values: dict[str, object]


def _one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in choices:
            raise ValueError(text)
        return text

    return read


def _parts(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    if not set(names) <= set(HIDEABLE_SECTIONS):
        raise ValueError(text)
    return names


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(text)
    return text == "true"


def _layer(text: str) -> int:
    number = int(text)
    if not 0 <= number <= MAX_LAYERS:
        raise ValueError(text)
    return number


def _image(text: str) -> int:
    number = int(text)
    if not 0 <= number < TEST_IMAGES:
        raise ValueError(text)
    return number


def _number(kind: type) -> Callable[[str], object]:
    def read(text: str) -> object:
        number = kind(text)
        # Numbers in a browser are exact up to 2 ** 53; a number input refuses larger ones.
        if not abs(number) < 2**53:
            raise ValueError(text)
        return number

    return read


def recipe() -> Recipe:
    """The recipe in the session. Raises RecipeError for a value that is not allowed, such as one from the URL."""
    return recipe_from_values({spec.key: st.session_state[spec.key] for spec in RECIPE_FIELDS})


URL_FIELDS = (
    Field("net", PRESETS[0].text, str),
    Field("modules", False, _flag),
    Field("guess", False, _flag),
    Field("layer", AUTO_LAYER, _layer),
    Field("image", 0, _image, f"It is the number of a test image, 0 to {TEST_IMAGES - 1}."),
    Field("compare", "", str),
    Field("hide", [], _parts, f"It is a list, with commas, of: {', '.join(HIDEABLE_SECTIONS)}."),
    Field("run", None, str),
    Field("ghost", None, str),
    *(
        Field(
            spec.key, spec.get(RECIPES[0].recipe), _one_of(tuple(spec.choices)) if spec.choices else _number(spec.kind)
        )
        for spec in RECIPE_FIELDS
    ),
)


def sync_url_state(page: str) -> list[str]:
    """Bring session and URL in step, once per script run, before the page. `page` is the name of the page.

    Return a sentence for each value in the URL that is invalid; its default is used.

    The URL wins in the first run of a session, and when it has changed while the page stayed the same, for example by
    the browser's Back button. Otherwise the session wins, because a change of page empties the URL.
    """
    given = st.query_params.to_dict()
    refused: list[str] = []
    last: _Followed | None = st.session_state.get(_FOLLOWED)
    if last is None or (last.page == page and given and given != last.shown):
        values = {field.key: _value(field, given, refused) for field in URL_FIELDS}
    elif last.page == page:
        values = {field.key: st.session_state.get(field.key, last.values[field.key]) for field in URL_FIELDS}
    else:
        # The widgets were removed with their page, and the session may hold older values under their keys.
        values = last.values
    st.session_state.update(values)
    shown = {field.key: _text(values[field.key]) for field in URL_FIELDS if values[field.key] != field.default}
    if last is not None and (page, values) == (last.page, last.values):
        # There is nothing new to write. A URL that Back has emptied stays empty, or Back would never get past it.
        shown = given
    if shown != given:
        st.query_params.from_dict(shown)
    st.session_state[_FOLLOWED] = _Followed(page, shown, values)
    return refused


def hidden(part: str) -> bool:
    """Whether the URL hides a part of the page, one of HIDEABLE_SECTIONS."""
    if part not in HIDEABLE_SECTIONS:
        raise KeyError(part)
    return part in st.session_state.hide


def _value(field: Field, given: dict[str, str], refused: list[str]) -> object:
    text = given.get(field.key)
    if text is None:
        return copy(field.default)
    try:
        return field.read(text[:MAX_LENGTH])
    except (ValueError, OverflowError):
        shown = text if len(text) <= 40 else text[:40] + "…"
        refused.append(f"“{field.key}={shown}” in the address could not be read and is left out. {field.expected}")
        return copy(field.default)


def _text(value: object) -> str:
    match value:
        case list():
            return ",".join(value)
        case bool():
            return str(value).lower()
        case float():
            return repr(value).removesuffix(".0")
    return str(value)
