"""Refresh the tables of the notation in the documentation from `lib.design.notation_tables`.

    python -m docs.notation_tables

`<!-- notation: TITLE -->` to `<!-- end of notation -->` is the table of that title.
"""

from __future__ import annotations

import re

from docs.pages import rewrite
from lib.design.notation_tables import markdown_table

_TABLE = re.compile(r"(<!-- notation: (\w+) -->\n).*?(<!-- end of notation -->)", re.DOTALL)


def refreshed(page: str) -> str:
    """Return the page with the present tables."""
    return _TABLE.sub(lambda block: f"{block[1]}\n{markdown_table(block[2])}\n\n{block[3]}", page)


if __name__ == "__main__":
    rewrite(refreshed)
