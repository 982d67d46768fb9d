"""Show text from outside, such as addresses and file names, exactly as it was typed.

- `visible`: for a terminal. `isolated`: for a place on the screen that shows text as it is. `escaped`: for one that
  reads Markdown, as most of Streamlit's do. `html_escaped`: for a label that Plotly draws. `csv_text`: for a table.
- `name` is what a run or a set may be called; `cleaned_name` makes such a name of one that a file holds.
"""

from __future__ import annotations

import csv
import html
import io
import itertools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from decimal import Decimal

# Characters without a picture of their own: controls, Unicode's "default ignorable" ones, the blank letters of Hangul,
# the blank Braille pattern, lone surrogates. Selectors and joiners count among them only where they have no effect.
_SELECTORS, _JOINERS = "\ufe00-\ufe0f", "\u200c\u200d"
_CONTROLS = (
    "\x00-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\u2800\u3164\ud800-\udfff\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_SEEN = rf"[^\s{_CONTROLS}{_SELECTORS}{_JOINERS}]"
_HIDDEN = re.compile(
    rf"[{_CONTROLS}]|(?<!{_SEEN})[{_SELECTORS}]"
    rf"|(?<!{_SEEN})(?<!{_SEEN}[{_SELECTORS}])[{_JOINERS}]|[{_JOINERS}](?!{_SEEN})"
)
_SURROGATE = re.compile("[\ud800-\udfff]")
# Words of the scripts that are written from right to left, with what stands between two of them.
_LEFTWARD = "\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff"
_LEFTWARD_WORDS = re.compile(rf"[{_LEFTWARD}](?:[\W\d_]*[{_LEFTWARD}])*")
_ISOLATE, _END_ISOLATE = "\u2068", "\u2069"

# Streamlit changes these after Markdown is parsed, where no backslash protects them: links of GitHub's Markdown,
# shortcodes of icons and emoji, and signs that it makes one character of. Code alone is left as it is.
_REWRITTEN = re.compile(r"://|www\.|@|:[\w+-]+:|^(?:<->|->|<-|--|>=|<=|~=)$", re.IGNORECASE)
# The text after it might complete these.
_REWRITTEN_AT_END = re.compile(r"www$|:[\w+-]+$", re.IGNORECASE)
# Code does not protect these: Streamlit makes an icon of the first, and the second ends the label of a definition where
# the text stands in a link.
_READ_IN_CODE = re.compile(r"(:material/|\])")

# What a spreadsheet takes for the beginning of a formula, in any width (OWASP, "CSV Injection"), at the beginning of a
# cell or of what another separator, or a line's end, would make one.
_FORMULA = re.compile(
    rf"(^|[,;\t\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029])"
    rf"(?=[\s\"'{_CONTROLS}{_SELECTORS}{_JOINERS}]*[=+\-@＝＋－＠﹦﹢﹣﹫⁼⁺₌₊﬩])"
)


class NameRefusedError(ValueError):
    """A name that cannot be given, in one sentence with the remedy."""


def visible(text: str) -> str:
    """The text with the code of each character that cannot be seen in its place, such as [U+202E]."""
    return _HIDDEN.sub(lambda found: _code_of(found[0]), text)


def isolated(text: str) -> str:
    """As `visible`; words written from right to left leave the order of what stands beside them as it is."""
    return _LEFTWARD_WORDS.sub(lambda found: f"{_ISOLATE}{found[0]}{_END_ISOLATE}", visible(text))


def escaped(text: str) -> str:
    """Markdown that Streamlit shows as `isolated(text)`, character by character.

    Whole sentences may be given, and the result may stand within Markdown, but not within code.
    """
    parts = re.split(r"(\s+)", isolated(text))
    for place in range(0, len(parts), 2):
        run, last = parts[place], place == len(parts) - 1
        if _REWRITTEN.search(run) or (last and _REWRITTEN_AT_END.search(run)):
            parts[place] = "".join(
                _escaped_signs(part) if odd else _code(part)
                for part, odd in zip(_READ_IN_CODE.split(run), itertools.cycle((False, True)), strict=False)
            )
        else:
            ended = run.removesuffix(":") if not last else run
            parts[place] = _escaped_signs(ended) + run[len(ended) :]
    markdown = re.sub(r"^(?=[-+=])|^(\d+)(?=[.)])", r"\1\\", "".join(parts))
    return re.sub(r"^\s|\s$", lambda found: f"&#{ord(found[0])};", markdown)


def html_escaped(text: str) -> str:
    """For a label of a chart: Plotly reads tags, links among them, and entities."""
    return html.escape(isolated(text), quote=False)


def name(text: str, longest: int) -> str:
    """What somebody typed as a name of at most `longest` characters: composed (NFC), its white space single spaces.

    May be empty. Raises NameRefusedError where something in it cannot be seen, or nothing can.
    """
    text = _spaced(text)
    hidden = _HIDDEN.search(text)
    if hidden:
        raise NameRefusedError(
            f"The name has a character that cannot be seen, {_code_of(hidden[0])}: type it without that."
        )
    if text and not _shows(text):
        raise NameRefusedError("The name shows nothing: type at least one letter, digit or sign.")
    if len(text) > longest:
        raise NameRefusedError(f"A name has at most {longest} characters; this one has {len(text)}.")
    return text


def cleaned_name(text: str, longest: int, otherwise: str) -> str:
    """A name that `name` accepts, of one that a file holds; `otherwise` where nothing of it is left."""
    text = _spaced(_HIDDEN.sub("", _spaced(text)))[:longest].rstrip(f" {_JOINERS}")
    return name(text, longest) if _shows(text) else otherwise


def spreadsheet_cell(text: str) -> str:
    """The text with an apostrophe wherever a spreadsheet that splits at a comma, semicolon or tab would find a formula.

    What no encoding has, a lone surrogate, is shown by its code.
    """
    return _FORMULA.sub(r"\1'", _SURROGATE.sub(lambda found: _code_of(found[0]), text))


def csv_text(rows: Iterable[Sequence[str | int | float | Decimal]]) -> str:
    """Lines of CSV with commas: numbers as they are, every text in quotes and none of them a formula."""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerows([spreadsheet_cell(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    return written.getvalue()


def _code_of(character: str) -> str:
    number = ord(character)
    # Python's stand-in for a byte that the system's encoding does not have.
    return f"[byte {number - 0xDC00:02X}]" if 0xDC80 <= number <= 0xDCFF else f"[U+{number:04X}]"


def _code(run: str) -> str:
    """A code span of the text, which has no white space; none of no text."""
    if not run:
        return ""
    fence = "`" * (1 + max(map(len, re.findall("`+", run)), default=0))
    space = " " * (run.startswith("`") or run.endswith("`"))
    return f"{fence}{space}{run}{space}{fence}"


def _escaped_signs(text: str) -> str:
    # A colon as a character reference: Streamlit looks for icons before it reads backslashes.
    return re.sub(r"([\\*_\[\]<>$~|#&])", r"\\\1", text).replace("`", "&#96;").replace(":", "&#58;")


def _spaced(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def _shows(text: str) -> bool:
    return any(unicodedata.category(character)[0] in "LNPS" for character in _HIDDEN.sub("", text))
