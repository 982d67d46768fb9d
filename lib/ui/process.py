"""The start of the server process: its settings, and the work that begins with it."""

from __future__ import annotations

import ctypes
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import cache

from starlette.types import ASGIApp, Receive, Scope, Send
from streamlit import net_util

# M_ARENA_MAX has this number in glibc's malloc.h. By default each thread gets its own arena, up to 8 for each core, and
# an arena keeps what is freed in it: thirty tabs with a run each then held 100 MB more than the thirty before them.
M_ARENA_MAX, MAX_ARENAS = -8, 2


@asynccontextmanager
async def serving(_app: object) -> AsyncIterator[None]:
    """Prepare the process and begin the work in the background: the lifespan of the server."""
    prepare_process()
    # Streamlit's caches must not be imported before its runtime exists.
    from lib.ui.warm_up import warm_up

    warm_up()
    yield


class PageRequests:
    """ASGI middleware that tells `warm_up` which page a browser asks for, half a second before the page runs."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            from lib.ui.warm_up import request_page

            request_page(scope["path"].rpartition("/")[2])
        await self.app(scope, receive, send)


@cache
def prepare_process() -> None:
    """Limit the memory arenas, and forbid Streamlit to look up the external address."""
    limit_memory_arenas()
    forbid_address_lookup()


def limit_memory_arenas() -> None:
    """Let all threads share two arenas of memory, if the C library is glibc. An arena that exists is not removed."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, MAX_ARENAS)


def forbid_address_lookup() -> None:
    """Let Streamlit refuse a page of another site without asking for this machine's external address.

    To compare the origin of such a page with that address, it would ask checkip.amazonaws.com at every attempt, and
    block the server for up to two seconds. No option turns that off. Without an address there is no wait.
    """
    net_util.get_external_ip = lambda: None
