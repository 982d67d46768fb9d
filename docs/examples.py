"""Refresh the command-line examples in the documentation.

    python -m docs.examples

A block fenced as `console` holds commands, each after a `$`, and the output of each. Only `python -m lib describe`
and `import` are run, which need no torch.
"""

from __future__ import annotations

import io
import re
import shlex
from contextlib import redirect_stderr, redirect_stdout

from docs.pages import rewrite
from lib.__main__ import main as command_line

PREFIX = ["python", "-m", "lib"]
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def refreshed(page: str) -> str:
    """Return the page with the current output of every example."""
    return _BLOCK.sub(lambda block: f"```console\n{_session(block[1])}```", page)


def _session(block: str) -> str:
    commands = re.findall(r"^\$ (.*)$", block, re.MULTILINE)
    return "\n".join(f"$ {command}\n{_output(command)}" for command in commands)


def _output(command: str) -> str:
    words = shlex.split(command)
    if words[:3] != PREFIX or words[3:4] not in (["describe"], ["import"]):
        raise ValueError(f"an example that is not run here: {command}")
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        command_line(words[3:])
    return "".join(f"{line.rstrip()}\n" for line in printed.getvalue().splitlines())


if __name__ == "__main__":
    rewrite(refreshed)
