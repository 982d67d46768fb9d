"""An HTTP and WebSocket client of a running server, with any Host, Origin, cookie, token and upload."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import connect
from websockets.typing import Origin

SESSION_SECONDS = 60
_BOUNDARY = "boundary"


def request(
    url: str, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers by lower-case name, and body of the response."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def handshake(url: str, host: str | None = None, origin: str | None = None) -> int:
    """HTTP status of an attempt to open the app's WebSocket: 101 if the server accepts it."""
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Version": "13",
    }
    if host:
        headers["Host"] = host
    if origin:
        headers["Origin"] = origin
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    try:
        connection.request("GET", "/_stcore/stream", headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


def token(url: str) -> dict[str, str]:
    """The headers of a request from the app's own page: the XSRF cookie, and its token."""
    _, headers, _ = request(url, "GET", "/_stcore/health")
    cookie = headers["set-cookie"].split(";")[0]
    return {"Cookie": cookie, "X-Xsrftoken": cookie.partition("=")[2]}


@contextmanager
def session(url: str, page: str) -> Iterator[str]:
    """A tab that shows the page with this path; yields the id of its session when the script has run."""
    with _connected(url, page) as told:
        identity = ""
        for message in told:
            if message.WhichOneof("type") == "new_session":
                identity = message.new_session.initialize.session_id
            elif message.WhichOneof("type") == "script_finished":
                break
        yield identity


@dataclass
class Shown:
    """What a tab has received: page titles, level-1 headings, the menu, and whether the page does not exist."""

    titles: list[str] = field(default_factory=list)
    headings: list[str] = field(default_factory=list)
    menu: list[str] = field(default_factory=list)
    missing: bool = False


def first_shown(url: str, page: str) -> Shown:
    """What a tab receives for the page with this path, until its menu and first heading."""
    shown = Shown()
    with _connected(url, page) as told:
        for message in told:
            match message.WhichOneof("type"):
                case "page_config_changed":
                    shown.titles.append(message.page_config_changed.title)
                case "navigation":
                    shown.menu = [entry.page_name for entry in message.navigation.app_pages]
                case "page_not_found":
                    shown.missing = True
                case "delta" if message.delta.new_element.heading.tag == "h1":
                    shown.headings.append(message.delta.new_element.heading.body)
            if shown.menu and shown.headings:
                return shown
    return shown


@contextmanager
def _connected(url: str, page: str) -> Iterator[Iterator[ForwardMsg]]:
    """A tab that requests the page with this path; yields the messages of the server."""
    address = f"ws{url.removeprefix('http')}/_stcore/stream"
    with connect(address, origin=Origin(url), max_size=None, proxy=None) as socket:
        asked = BackMsg()
        asked.rerun_script.page_name = page
        socket.send(asked.SerializeToString())

        def told() -> Iterator[ForwardMsg]:
            end = time.monotonic() + SESSION_SECONDS
            while True:
                content = socket.recv(timeout=max(0.0, end - time.monotonic()))
                assert isinstance(content, bytes)
                message = ForwardMsg()
                message.ParseFromString(content)
                yield message

        yield told()


def upload(url: str, session_id: str, file_id: str, size: int, headers: dict[str, str]) -> int:
    """HTTP status of an upload of `size` zero bytes."""
    start = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'.encode()
    body = start + bytes(size) + f"\r\n--{_BOUNDARY}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
    return request(url, "PUT", path_of(session_id, file_id), body, {**kind, **headers})[0]


def path_of(session_id: str, file_id: str) -> str:
    return f"/_stcore/upload_file/{session_id}/{file_id}"
