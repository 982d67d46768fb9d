"""Show text from outside, such as addresses and file names, exactly as it was typed.

- `visible` is for terminals, `isolated` for plain text on a page, `escaped` for Markdown (most Streamlit elements),
  `html_escaped` for Plotly labels, and `csv_text` for tables.
- `name` validates the name of a run or a set; `cleaned_name` turns a name from a file into a valid one.
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

# Characters without a glyph: controls, Unicode's "default ignorable" ones, the blank letters of Hangul,
# the blank Braille pattern, lone surrogates. Selectors and joiners count as hidden only if they have no effect.
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
# Words in right-to-left scripts, with the characters between them.
_LEFTWARD = "\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff"
_LEFTWARD_WORDS = re.compile(rf"[{_LEFTWARD}](?:[\W\d_]*[{_LEFTWARD}])*")
_ISOLATE, _END_ISOLATE = "\u2068", "\u2069"

# Streamlit rewrites these after Markdown is parsed, when backslashes no longer protect them: bare links, shortcodes of
# icons and emoji, and signs that it combines into one character. Only code is left unchanged.
_REWRITTEN = re.compile(r"://|www\.|@|:[\w+-]+:|^(?:<->|->|<-|--|>=|<=|~=)$", re.IGNORECASE)
# These may become one of the above together with the text that follows.
_REWRITTEN_AT_END = re.compile(r"www$|:[\w+-]+$", re.IGNORECASE)
# Code does not protect these: Streamlit replaces the first by an icon, and the second ends the label of a link.
_READ_IN_CODE = re.compile(r"(:material/|\])")

# The start of a formula in a spreadsheet, in any width (OWASP, "CSV Injection"): at the beginning of a cell, or after
# another separator or a line break, which may begin a cell too.
_FORMULA = re.compile(
    rf"(^|[,;\t\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029])"
    rf"(?=[\s\"'{_CONTROLS}{_SELECTORS}{_JOINERS}]*[=+\-@＝＋－＠﹦﹢﹣﹫⁼⁺₌₊﬩])"
)


class NameRefusedError(ValueError):
    """A name that is not allowed. The message is one sentence with the remedy."""


def visible(text: str) -> str:
    """Replace each invisible character by its code, such as [U+202E]."""
    return _HIDDEN.sub(lambda found: _code_of(found[0]), text)


def isolated(text: str) -> str:
    """Like `visible`, with right-to-left words isolated, so that they do not reorder the text around them."""
    return _LEFTWARD_WORDS.sub(lambda found: f"{_ISOLATE}{found[0]}{_END_ISOLATE}", visible(text))


def escaped(text: str) -> str:
    """Return Markdown that Streamlit shows as `isolated(text)`, character by character.

    The text may be a whole sentence. The result can be used within Markdown, but not within code.
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
    """Escape a label of a chart: Plotly interprets tags, including links, and entities."""
    return html.escape(isolated(text), quote=False)


def name(text: str, longest: int) -> str:
    """Normalize a typed name of at most `longest` characters: composed (NFC), with single spaces as white space.

    The name may be empty. Raises NameRefusedError if it has invisible characters, no visible ones, or is too long.
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
    """Turn a name from a file into one that `name` accepts; return `otherwise` if nothing is left of it."""
    text = _spaced(_HIDDEN.sub("", _spaced(text)))[:longest].rstrip(f" {_JOINERS}")
    return name(text, longest) if _shows(text) else otherwise


def spreadsheet_cell(text: str) -> str:
    """Put an apostrophe before each formula that a spreadsheet with comma, semicolon or tab as separator would find.

    Lone surrogates, which cannot be encoded, are replaced by their code.
    """
    return _FORMULA.sub(r"\1'", _SURROGATE.sub(lambda found: _code_of(found[0]), text))


def csv_text(rows: Iterable[Sequence[str | int | float | Decimal]]) -> str:
    """Return rows as comma-separated CSV: numbers unchanged, all text quoted, and no text a formula."""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerows([spreadsheet_cell(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    return written.getvalue()


def _code_of(character: str) -> str:
    number = ord(character)
    # Python's placeholder for a byte that the system's encoding cannot decode.
    return f"[byte {number - 0xDC00:02X}]" if 0xDC80 <= number <= 0xDCFF else f"[U+{number:04X}]"


def _code(run: str) -> str:
    """Return text without white space as a Markdown code span; empty text stays empty."""
    if not run:
        return ""
    fence = "`" * (1 + max(map(len, re.findall("`+", run)), default=0))
    space = " " * (run.startswith("`") or run.endswith("`"))
    return f"{fence}{space}{run}{space}{fence}"


def _escaped_signs(text: str) -> str:
    # The colon becomes a character reference, because Streamlit looks for icons before it handles backslashes.
    return re.sub(r"([\\*_\[\]<>$~|#&])", r"\\\1", text).replace("`", "&#96;").replace(":", "&#58;")


def _spaced(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def _shows(text: str) -> bool:
    return any(unicodedata.category(character)[0] in "LNPS" for character in _HIDDEN.sub("", text))
