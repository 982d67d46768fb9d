"""Keep torch's compiler out of the process: the optimizers import it to tell it what not to compile.

Nothing here is compiled. The import takes more than a second and 200 MB, at the first step of the first training.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., Any])

NAME = "torch._dynamo"


def install() -> None:
    """Put a stand-in in the place of the compiler, unless it is imported already. A second call has no effect."""
    if NAME not in sys.modules:
        stub = _CompilerStub(NAME)
        sys.modules[NAME] = stub
        torch._dynamo = stub


class _CompilerStub(ModuleType):
    """What the optimizers use of the compiler, as it is outside of a compiled function.

    Any other attribute, such as `torch.compile` needs, comes from the real compiler.
    """

    @staticmethod
    def graph_break(msg: str = "") -> None:
        """Do nothing: there is no graph."""

    @staticmethod
    def disable(fn: Function, recursive: bool = True, **_: Any) -> Function:
        """Return the function as it is: it is not compiled."""
        return fn

    def __getattr__(self, name: str) -> Any:
        # The import system asks for these of every module.
        if name in ("__path__", "__file__") or not name.startswith("__"):
            return getattr(_real(self), name)
        raise AttributeError(f"module {NAME!r} has no attribute {name!r}")


def _real(stub: ModuleType) -> ModuleType:
    """Import the compiler in the place of its stand-in."""
    if sys.modules.get(NAME) is stub:
        del sys.modules[NAME]
    return importlib.import_module(NAME)
