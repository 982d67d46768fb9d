"""What a running server accepts, from requests that no browser would send."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from lib.ui.page import PAGES, Page
from tests.web_client import first_shown, handshake, path_of, request, session, token, upload
from tools import ROOT
from tools.server import LOG, copy_project, serving

pytestmark = pytest.mark.slow


MEGABYTE = 2**20


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project without a server."""
    return copy_project(tmp_path_factory.mktemp("project"))


@pytest.mark.parametrize("page", [PAGES[0], PAGES[-1]], ids=lambda page: page.name)
def test_any_pages_own_url_may_be_the_first_request_after_a_start(stopped: Path, page: Page) -> None:
    """Before the first run Streamlit has no navigation and treats the folder pages/ as an older kind of app."""
    with serving(stopped, kill=True) as address:
        shown = first_shown(address, page.url_path)
    assert shown.headings == [page.heading]
    assert shown.menu == [page.title for page in PAGES]
    assert shown.titles[-1].endswith("Receptive")
    assert not shown.missing


@pytest.fixture(scope="module")
def tab(url: str) -> Iterator[str]:
    """The session of an open tab."""
    with session(url, "") as identity:
        yield identity


def port(url: str) -> str:
    return url.rpartition(":")[2]


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST."])
def test_a_page_of_this_machine_connects(url: str, name: str) -> None:
    assert handshake(url, host=f"{name}:{port(url)}", origin=f"http://{name}:{port(url)}") == 101


@pytest.mark.parametrize("name", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1"])
def test_a_site_whose_name_leads_to_this_machine_is_refused(url: str, name: str) -> None:
    """DNS rebinding: for the browser both have one origin; only the Host header tells them apart."""
    assert handshake(url, host=f"{name}:{port(url)}", origin=f"http://{name}:{port(url)}") == 403
    assert handshake(url, host=name) == 403


@pytest.mark.usefixtures("tab")
@pytest.mark.parametrize("origin", ["http://evil.example", "https://localhost.evil.example", "null"])
def test_a_foreign_page_is_refused_without_a_request_to_the_outside(url: str, served: Path, origin: str) -> None:
    assert handshake(url, origin=origin) == 403
    log = (served / LOG).read_text()
    assert f"origin={origin}" in log
    assert "external IP" not in log


def test_a_class_can_open_the_address_of_the_teachers_machine(tmp_path: Path) -> None:
    """With the command of docs/teaching.md, whose options replace those of config.toml."""
    page = (ROOT / "docs" / "teaching.md").read_text(encoding="utf-8")
    written = re.search(r"streamlit run app.py (--server.address .*)", page)
    assert written
    with serving(copy_project(tmp_path), *written[1].replace("192.168.1.20", "classroom.example").split()) as url:
        name = f"classroom.example:{port(url)}"
        assert handshake(url, host=name, origin=f"http://{name}") == 101
        assert handshake(url, host=f"evil.example:{port(url)}", origin=f"http://evil.example:{port(url)}") == 403
    assert "external IP" not in (tmp_path / LOG).read_text()


def test_metrics_have_no_names_of_sessions_or_files(url: str, tab: str) -> None:
    """Streamlit cannot disable metrics; SECURITY.md says what they contain."""
    headers = token(url)
    assert upload(url, tab, "secret-id", 1000, headers) == 204
    status, _, body = request(url, "GET", "/_stcore/metrics")
    told = body.decode()
    assert status == 200
    assert re.search(r'^cache_memory_bytes\{cache_type="UploadedFileManager",cache=""\} \d+$', told, re.MULTILINE)
    labels = set(re.findall(r'[{,](\w+)="', told))
    assert labels <= {"cache", "cache_type", "le", "reason", "result", "trigger", "type"}
    assert tab not in told
    assert "secret-id" not in told
    assert request(url, "DELETE", path_of(tab, "secret-id"), headers=headers)[0] == 204


@pytest.mark.parametrize(
    ("size", "status"), [(0, 204), (MEGABYTE, 204), (10 * MEGABYTE, 413), (11 * MEGABYTE, 413), (60 * MEGABYTE, 413)]
)
def test_an_upload_of_ten_megabytes_or_more_is_refused(url: str, tab: str, size: int, status: int) -> None:
    """The limit of ten includes the bytes of the form."""
    assert upload(url, tab, "large", size, token(url)) == status


def test_an_upload_without_the_token_of_its_page_is_refused(url: str, tab: str) -> None:
    own, other = token(url), token(url)
    cookie = {"Cookie": own["Cookie"]}
    for headers in (
        {},
        cookie,
        {"X-Xsrftoken": own["X-Xsrftoken"]},
        {**cookie, "X-Xsrftoken": other["X-Xsrftoken"]},
        {**cookie, "X-Xsrftoken": "2|00000000|00000000000000000000000000000000|1"},
        {**cookie, "X-Xsrftoken": "nonsense"},
        {"Cookie": "_streamlit_xsrf=", "X-Xsrftoken": ""},
        {**cookie, "X-Xsrftoken": "", "Origin": "http://evil.example"},
    ):
        assert upload(url, tab, "forged", 10, headers) == 403, headers
        assert request(url, "DELETE", path_of(tab, "forged"), headers=headers)[0] == 403, headers


def test_a_foreign_page_may_neither_read_the_token_nor_send_it(url: str) -> None:
    """A browser sends a PUT to another site only if the response to OPTIONS allows the page's origin."""
    foreign = {"Origin": "http://evil.example", "Access-Control-Request-Method": "PUT"}
    for method, path in (("OPTIONS", path_of("any", "any")), ("GET", "/_stcore/health"), ("GET", "/_stcore/metrics")):
        _, headers, _ = request(url, method, path, headers=foreign)
        assert headers.get("access-control-allow-origin") not in ("*", foreign["Origin"]), path
    assert "SameSite=Lax" in request(url, "GET", "/_stcore/health")[1]["set-cookie"]


def test_an_upload_to_no_session_is_refused(url: str) -> None:
    headers = token(url)
    with session(url, "") as ended:
        assert upload(url, ended, "file", 10, headers) == 204
    for identity in (str(uuid.uuid4()), "..", "%2e%2e", "x" * 5000, ended):
        assert upload(url, identity, "file", 10, headers) in (400, 404), identity
        assert request(url, "DELETE", path_of(identity, "file"), headers=headers)[0] in (204, 400, 404), identity
