"""A client of a running server that is no browser: any Host, Origin, cookie and token, and uploads as it likes."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
    """Status, headers by lower-case name, and body of the answer."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def handshake(url: str, host: str | None = None, origin: str | None = None) -> int:
    """HTTP status of an attempt to open the app's WebSocket: 101 where the server accepts it."""
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
    """The headers by which the server knows a request of its own page: the XSRF cookie, and the same as a header."""
    _, headers, _ = request(url, "GET", "/_stcore/health")
    cookie = headers["set-cookie"].split(";")[0]
    return {"Cookie": cookie, "X-Xsrftoken": cookie.partition("=")[2]}


@contextmanager
def session(url: str, page: str) -> Iterator[str]:
    """A tab that shows `page`, by its path; gives the session's identity once the page's script has run."""
    address = f"ws{url.removeprefix('http')}/_stcore/stream"
    with connect(address, origin=Origin(url), max_size=None, proxy=None) as socket:
        asked = BackMsg()
        asked.rerun_script.page_name = page
        socket.send(asked.SerializeToString())
        identity, end = "", time.monotonic() + SESSION_SECONDS
        while True:
            told = ForwardMsg()
            message = socket.recv(timeout=max(0.0, end - time.monotonic()))
            assert isinstance(message, bytes)
            told.ParseFromString(message)
            if told.WhichOneof("type") == "new_session":
                identity = told.new_session.initialize.session_id
            elif told.WhichOneof("type") == "script_finished":
                break
        yield identity


def upload(url: str, session_id: str, file_id: str, size: int, headers: dict[str, str]) -> int:
    """Status of the answer to an upload of `size` zero bytes."""
    start = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'.encode()
    body = start + bytes(size) + f"\r\n--{_BOUNDARY}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
    return request(url, "PUT", path_of(session_id, file_id), body, {**kind, **headers})[0]


def path_of(session_id: str, file_id: str) -> str:
    return f"/_stcore/upload_file/{session_id}/{file_id}"
