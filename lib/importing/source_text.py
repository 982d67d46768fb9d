"""Python text: its lines and comments, and its syntax tree, of the parts that are Python if not all of it is."""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from collections.abc import Iterator

from lib.importing.module_graph import ImportSourceError

# Python parses some 1 MB a second.
MAX_SOURCE_BYTES = 300_000
MAX_NESTING = 100
# Text that is parsed block by block, over all attempts.
_BLOCK_CHARACTERS = 300_000
_SHOWN = 100
# Texts and comments, in which brackets do not count, and the brackets.
_BRACKETS = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*"""|\'\'\'(?:[^\'\\]|\\.|\'(?!\'\'))*\'\'\''
    r'|"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'|#[^\n]*|(?P<open>[(\[{])|(?P<close>[)\]}])',
    re.DOTALL,
)
_COMMENT = re.compile(r"""^(?:[^#"'\\]|\\.|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')*(#.*)$""")
_FIELD = re.compile(r"\bRF\b|receptive|r\.f\.|\brf\b", re.IGNORECASE)
_PYTHON_2 = re.compile(r"^([ \t]*)(?:print\b[ \t]*(?![ \t(=.])|exec[ \t]+[\"'])[^\n]*$", re.MULTILINE)
_PYTHON_2_EXCEPT = re.compile(r"^([ \t]*except[ \t]+[\w.]+)[ \t]*,[ \t]*\w+[ \t]*:", re.MULTILINE)
_BLOCK_START = re.compile(
    r"^([ \t]*)(?:@|class\b|def\b|from\s+[\w.]+\s+import\b|import\s|[A-Za-z_][\w.]*\s*(?::[^=]*)?=[^=])"
)
_LAYER_START = re.compile(
    r"^\s*(?:\(\w+\):\s*)?((?:torch\.)?(?:nn\.)?(?:Conv2d|BatchNorm2d|ReLU|MaxPool2d|AvgPool2d|Dropout2?d?|Linear|Flatten"
    r"|AdaptiveAvgPool2d|[A-Z]\w*(?:2d|Norm|ReLU|Softmax|Pool))\()"
)


class SourceText:
    """Text with its lines, counted from 1. Raises ImportSourceError if it is too large or too deeply nested."""

    def __init__(self, text: str) -> None:
        size = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
        if size > MAX_SOURCE_BYTES:
            raise ImportSourceError(
                f"The source has {size / 1000:,.0f} kB; at most {MAX_SOURCE_BYTES / 1000:.0f} kB are read. "
                "Keep the file with the network."
            )
        text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
        if "\0" in text:
            raise ImportSourceError("The source has null bytes, so it is no text. Save it as UTF-8 text.")
        self.text = _without_prompts(text)
        self.lines = self.text.split("\n")
        self._check_nesting()

    def _check_nesting(self) -> None:
        depth = 0
        for match in _BRACKETS.finditer(self.text):
            if match["open"]:
                depth += 1
                if depth > MAX_NESTING:
                    line = self.text.count("\n", 0, match.start()) + 1
                    raise ImportSourceError(
                        f"Line {line} has more than {MAX_NESTING} nested brackets. Write it with fewer.", line
                    )
            elif match["close"]:
                depth = max(depth - 1, 0)

    def line(self, number: int | None) -> str:
        """The text of a line without the white space around it, shortened; "" for None."""
        if number is None or not 1 <= number <= len(self.lines):
            return ""
        text = self.lines[number - 1].strip()
        return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"

    def at(self, number: int | None) -> str:
        """How a sentence about a line begins."""
        return f"Line {number}, `{self.line(number)}`: " if number is not None else ""

    def comment_at(self, number: int | None) -> str:
        """The comment on a line without its sign, "" if it has none."""
        if number is None or not 1 <= number <= len(self.lines):
            return ""
        text = self.lines[number - 1]
        if "#" not in text or len(text) > 1000:
            return ""
        match = _COMMENT.match(text)
        return match[1].lstrip("#").strip() if match else ""

    def comment_of(self, first: int, last: int | None = None) -> str:
        """The comment on the first of some lines that has one."""
        numbers = range(first, min(last or first, first + 50) + 1)
        return next((comment for number in numbers if (comment := self.comment_at(number))), "")

    def comment_near(self, first: int, last: int | None = None) -> str:
        """A comment about a receptive field on the line above, or on the one below if it ends a paragraph there."""
        above, below = first - 1, (last or first) + 1
        if self._tells_field(above):
            return self.comment_at(above)
        ends = self.line(below + 1) == "" or self.line(below + 1).startswith(("#", "def "))
        return self.comment_at(below) if ends and self._tells_field(below) else ""

    def _tells_field(self, number: int) -> bool:
        text = self.line(number)
        return text.startswith("#") and _FIELD.search(text) is not None


def _without_prompts(text: str) -> str:
    if not re.search(r"^\s*>>> ", text, re.MULTILINE):
        return text
    return re.sub(r"^\s*(?:>>>|\.\.\.) ?", "", text, flags=re.MULTILINE)


def parsed(text: str) -> ast.Module | SyntaxError:
    """Parse text; a SyntaxError is returned, also for text that the parser refuses otherwise."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except SyntaxError as error:
        return error
    except (ValueError, RecursionError, MemoryError):
        return SyntaxError("it is nested too deeply")


def statements(source: SourceText) -> tuple[list[ast.stmt], SyntaxError | None]:
    """The statements of a text, with the syntax error if only parts of it are Python."""
    tree = parsed(source.text)
    if isinstance(tree, ast.Module):
        return tree.body, None
    text = _PYTHON_2_EXCEPT.sub(r"\1:", _PYTHON_2.sub(r"\1pass", source.text))
    modern = parsed(text)
    if isinstance(modern, ast.Module):
        return modern.body, None
    return list(_blocks(text.split("\n"))), tree


def _blocks(lines: list[str]) -> Iterator[ast.stmt]:
    """The classes, functions, imports and assignments that can be parsed one by one."""
    place, left = 0, _BLOCK_CHARACTERS
    while place < len(lines) and left > 0:
        start = _BLOCK_START.match(lines[place])
        if start is None:
            place += 1
            continue
        block, end = _block(lines, place, len(start[1].expandtabs()))
        found = None
        # Lines at the end of a block may be prose: leave them out until the rest can be parsed.
        for last in range(end, max(place, end - 10), -1):
            text = textwrap.dedent("\n".join(block[: last - place]))
            left -= len(text)
            tree = parsed(text) if left > 0 else None
            if isinstance(tree, ast.Module):
                found, end = tree, last
                break
        if found is None:
            place += 1
            continue
        ast.increment_lineno(found, place)
        yield from found.body
        place = end


def _block(lines: list[str], place: int, indent: int) -> tuple[list[str], int]:
    """The lines of a block that starts at `place`: those that are indented more, or in brackets that it opens."""
    depth, end = 0, place
    decorated = lines[place].lstrip().startswith("@")
    while end < len(lines):
        line = lines[end]
        if end > place and depth <= 0 and line.strip():
            inner = len(line.expandtabs()) - len(line.expandtabs().lstrip())
            if inner <= indent and not decorated and not line.lstrip().startswith("#"):
                break
            decorated = decorated and line.lstrip().startswith("@")
        for match in _BRACKETS.finditer(line):
            depth += bool(match["open"]) - bool(match["close"])
        end += 1
        if end - place > 5000:
            break
    return lines[place:end], end


def listed_layers(source: SourceText) -> Iterator[tuple[int, list[ast.expr]]]:
    """Layers that stand in the text as a bare list, one a line, with the number of the first line."""
    place = 0
    while place < len(source.lines):
        if not _LAYER_START.match(source.lines[place]):
            place += 1
            continue
        first, layers = place, list[ast.expr]()
        while place < len(source.lines):
            text = source.lines[place]
            if match := _LAYER_START.match(text):
                call = _call(text[match.start(1) :])
                if call is None:
                    break
                ast.increment_lineno(call, place)
                layers.append(call)
            elif text.strip() and not text.strip().startswith(("#", ")", "]")):
                break
            place += 1
        place = max(place, first + 1)
        if len(layers) > 1:
            yield first + 1, layers


def _call(text: str) -> ast.expr | None:
    """The call at the beginning of a line, whatever follows it."""
    depth = 0
    for match in _BRACKETS.finditer(text):
        depth += bool(match["open"]) - bool(match["close"])
        if depth == 0 and match["close"]:
            tree = parsed(text[: match.end()])
            if isinstance(tree, ast.Module) and len(tree.body) == 1 and isinstance(tree.body[0], ast.Expr):
                return tree.body[0].value
            return None
    return None
