"""Text from outside is shown as typed and has no effect on terminals, spreadsheets and charts."""

from __future__ import annotations

import csv
import io
import unicodedata
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.text.untrusted_text import (
    NameRefusedError,
    cleaned_name,
    csv_text,
    escaped,
    html_escaped,
    isolated,
    name,
    visible,
)

LONGEST = 60
# Real names; some need invisible selectors and joiners.
NAMES = [
    "Third try",
    "a/b_c *d* [e](f)",
    "100 % -> <b>&lt;</b>",
    "Größe №3",
    "مرحبا",
    "אבג 12",
    "क्‍ष नी",
    "می‌خواهم",
    "数字 ３",
    "👩‍👩‍👧 ❤️ 1️⃣",
    "🏳️‍🌈",
    "·",
]
UNSEEN = ["\0", "\x07", "\x1b[31m", "\x7f", "\x9b", "\xad", "\u061c", "\u115f", "\u200b", "\u200d", "\u200e", "\u200f"]
UNSEEN += ["\u202a", "\u202e", "\u2060", "\u2066", "\u2069", "\u2800", "\u3164", "\ufe0f", "\ufeff", "\ufff9", "\udcc3"]
UNSEEN += ["\U000e0041", "\U000e0101", "\U0001d173"]
# Bidirectional classes that change the direction of the text after them, or end that.
TURNS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
# Visible format characters: Unicode's Prepended_Concatenation_Mark, and joiners of hieroglyphs.
PICTURED = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD, *range(0x13430, 0x13440)}
nasty = st.lists(
    st.sampled_from([*UNSEEN, *NAMES, *"=+-@,;\t\n\r\"' `:*_[]()<>&$#|~\\", "＝", "﹢", "www.", "://"])
    | st.characters()
).map("".join)


def test_no_invisible_character_is_left() -> None:
    """All control and format characters and surrogates of Unicode."""
    unseen = [
        c for c in map(chr, range(0x110000)) if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    ]  # fmt: skip
    assert len(unseen) > 2000
    # Some scripts need a joiner between letters.
    shown = {ord(c) for c in unseen if visible(f"a{c}a") == f"a{c}a"}
    assert shown <= {*PICTURED, 0x200C, 0x200D}
    assert all(visible(c) != c for c in unseen if ord(c) not in PICTURED)


@given(nasty)
def test_visible_text_is_stable_and_reverses_no_other_text(text: str) -> None:
    assert visible(visible(text)) == visible(text)
    assert not TURNS & {unicodedata.bidirectional(c) for c in visible(text)}
    assert not [c for c in visible(text) if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
    # Isolates are closed and not nested, and nothing else is added.
    depth = 0
    for c in isolated(text):
        depth += {"\u2068": 1, "\u2069": -1}.get(c, 0)
        assert 0 <= depth <= 1
        assert depth == 1 or unicodedata.bidirectional(c) not in ("R", "AL") or unicodedata.category(c)[0] != "L"
    assert depth == 0
    assert isolated(text).replace("\u2068", "").replace("\u2069", "") == visible(text)


@pytest.mark.parametrize("typed", NAMES)
def test_a_name_is_kept_as_typed(typed: str) -> None:
    assert visible(typed) == name(f"  {typed} ", LONGEST) == cleaned_name(typed, LONGEST, "none") == typed


@pytest.mark.parametrize("unseen", UNSEEN)
def test_a_name_with_an_invisible_character_is_refused_and_a_stored_one_is_cleaned(unseen: str) -> None:
    for typed in (f"{unseen}", f"Run {unseen}{unseen} 3", f"{unseen}Run", f"Run{unseen} "):
        # A selector after a letter chooses the form of that letter, or has no effect.
        if unseen == "\ufe0f" and typed.startswith("Run"):
            continue
        with pytest.raises(NameRefusedError, match=r"cannot be seen, \[(U\+[0-9A-F]{4,5}|byte C3)\]: type it without"):
            name(typed, LONGEST)
    seen = "[31m" if unseen == "\x1b[31m" else ""
    assert cleaned_name(f"{unseen} Run{unseen} 3 {unseen}", LONGEST, "none").replace("\ufe0f", "") == (
        f"{seen} Run{seen} 3 {seen}".strip()
    )
    assert cleaned_name(unseen, LONGEST, "none") == (seen or "none")


@pytest.mark.parametrize("typed", ["\u0301", "\u0301\u0302 \u0301", "\u20dd"])
def test_a_name_without_a_visible_letter_is_refused(typed: str) -> None:
    with pytest.raises(NameRefusedError, match="shows nothing: type at least one letter"):
        name(typed, LONGEST)
    assert cleaned_name(typed, LONGEST, "none") == "none"
    assert name(" \u3000\t ", LONGEST) == ""


def test_a_long_name_is_refused_and_a_stored_one_is_truncated() -> None:
    with pytest.raises(NameRefusedError, match="at most 60 characters; this one has 61"):
        name("n" * 61, LONGEST)
    assert cleaned_name("n" * 61, LONGEST, "none") == "n" * 60
    assert cleaned_name("क्‍" * 30, 3, "none") == "क्"


@given(nasty, st.integers(1, 12))
def test_a_name_that_is_accepted_or_cleaned_is_accepted_again(typed: str, longest: int) -> None:
    cleaned = cleaned_name(typed, longest, "none")
    assert cleaned == "none" or name(cleaned, longest) == visible(cleaned) == cleaned
    try:
        accepted = name(typed, longest)
    except NameRefusedError:
        return
    assert accepted == " ".join(unicodedata.normalize("NFC", typed).split())
    assert cleaned == (accepted or "none")


class _Reading(HTMLParser):
    """The visible text of HTML, and its tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.shown, self.tags = "", list[str]()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.shown += data


@given(nasty | st.sampled_from(['<a href="//evil.io">x</a>', "&lt;b&gt;", "<br>", "a<sub>2</sub>"]))
def test_a_chart_label_has_no_html_tag(text: str) -> None:
    read = _Reading(html_escaped(text))
    assert (read.shown, read.tags) == (isolated(text), [])


@pytest.mark.parametrize("text", ["", "a", "The run “Größe 3” is not known here: it was deleted."])
def test_plain_text_is_only_changed_at_colons(text: str) -> None:
    assert escaped(text).replace("&#58;", ":") == text


def formulas(text: str) -> list[str]:
    """Cells that a spreadsheet might take for a formula.

    It may split at commas, semicolons or tabs, respect quotes or not, skip invisible characters, and accept full-width
    signs.
    """
    cells: list[str] = []
    for separator in ",;\t":
        cells += [cell for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) for cell in row]
        cells += [cell for line in text.splitlines() for cell in line.split(separator)]
    cells = ["".join(c for c in visible_only(cell) if c != '"') for cell in cells]
    return [cell for cell in cells if unicodedata.normalize("NFKC", cell[:1]).startswith(("=", "+", "-", "@"))]


def visible_only(cell: str) -> str:
    return "".join(c for c in cell if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zs", "Zl", "Zp"))


@pytest.mark.parametrize(
    "text",
    ["=1+1", "a;=1+1.png", "a\t@x", "a,+1", "\u200b=1", "\ufeff=1", "\0=1", "a\n-1", " \u00a0=1",
     '";=1', "＝1", "a;\u200b\u202e=1"],
)  # fmt: skip
def test_a_formula_is_found_and_disarmed(text: str) -> None:
    assert formulas(f'"{text}",1\n')
    assert formulas(csv_text([[text, 1]])) == []


def test_a_byte_that_cannot_be_decoded_is_shown_by_its_code() -> None:
    """A file name may have one."""
    assert csv_text([["a\udcc3", 1]]) == '"a[byte C3]",1\n'
    assert visible("a\udcc3") == "a[byte C3]"


@given(st.lists(nasty | st.sampled_from(["=1+1", "a;=1", "x\t=1", "a\r\n=1"]), min_size=1, max_size=3))
def test_csv_has_no_formula_and_loses_no_text(texts: list[str]) -> None:
    written = csv_text([["file", "number", "file"], *((text, 1, text) for text in texts)])
    assert formulas(written) == []
    _, *rows = csv.reader(io.StringIO(written, newline=""))
    for text, (first, number, last) in zip(texts, rows, strict=True):
        assert (first, number) == (last, "1")
        if not any(unicodedata.category(c) == "Cs" for c in text):
            assert first.replace("'", "") == text.replace("'", "")
    assert written.encode("utf-8")
    # Every text is quoted, so that no other separator splits it.
    one = csv_text([[texts[0], 1, texts[0]]])
    assert (one[0], one[-2:]) == ('"', '"\n')
    assert '",1,"' in one
