"""Fetching over HTTP: what a source may do wrong, and what is asked again, refused or left as it was."""

from __future__ import annotations

import email.utils
import gzip
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from etl_assets.local.routes import Request, Response
from etl_assets.local.source_server import serve
from etl_assets.sources import SourceRefusedError, SourceUnavailableError, Validators, http
from etl_assets.sources.http import Bearer, download, get, moment_of, probe, public
from etl_assets_tests.faults import Fault, Faults

FILE = "/events/all.csv"
CONTENT = b"a,b\n" + b"1,2\n" * 10_000


@pytest.fixture
def faults() -> Faults:
    """The source's misbehaviour."""
    return Faults()


@pytest.fixture
def url(tmp_path: Path, faults: Faults, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a file."""
    folder = tmp_path / "data" / "events" / "2025-03-05"
    folder.mkdir(parents=True)
    (folder / "all.csv").write_bytes(CONTENT)
    monkeypatch.setenv("ETL_HTTP_RETRY_WAIT", "0")
    with serve(tmp_path / "data", handler=faults.handler()) as base:
        yield base + FILE


@pytest.mark.parametrize("status", [403, 405, 501])
def test_who_answers_no_head_is_asked_with_get(tmp_path: Path, status: int) -> None:
    """As with addresses that are signed for GET; the file is not read for it."""
    asked: list[str] = []

    def answer(request: Request) -> Response:
        asked.append(request.method)
        return Response(status if request.method == "HEAD" else 200, CONTENT, headers={"ETag": '"v1"'})

    with serve(tmp_path, routes={"events": answer}) as base:
        assert probe(base + FILE, None) == '"v1"'
        assert probe(base + FILE, Validators('"v1"')) is None
        assert download(base + FILE, tmp_path / "got") is not None
    assert asked == ["HEAD", "GET"] * 2 + ["GET"]


def test_what_comes_with_a_file(url: str, tmp_path: Path) -> None:
    fetched = download(url + "?key=secret", tmp_path / "got")
    assert fetched is not None
    assert fetched.path.read_bytes() == CONTENT
    assert fetched.url == url
    assert fetched.validators.etag == fetched.headers["ETag"]
    assert fetched.validators.last_modified == "Wed, 05 Mar 2025 00:00:00 GMT"
    assert fetched.headers["Content-Length"] == str(len(CONTENT))


def test_a_known_version_is_not_fetched(url: str, tmp_path: Path, faults: Faults) -> None:
    """By its ETag, else by its date; a probe does not download at all."""
    fetched = download(url, tmp_path / "got")
    assert fetched is not None
    known = fetched.validators
    for validators in (known, Validators(last_modified=known.last_modified)):
        assert download(url, tmp_path / "again", validators) is None
        assert probe(url, validators) is None
    assert not (tmp_path / "again").exists()
    assert probe(url, Validators('"older"')) == known.etag
    assert faults.count(FILE, method="GET", status=200) == 2, "the date stands in the answer, whose body is not read"


def test_a_file_of_before_that_is_back_again_is_another_version(url: str, tmp_path: Path, faults: Faults) -> None:
    """A server without ETags answers that it has not been modified since, if it is asked that."""
    dates = [f"{day} 2025 00:00:00 GMT" for day in ("Thu, 01 May", "Sun, 01 Jun")]
    for now, before, is_other in ((dates[0], dates[1], True), (dates[1], dates[0], True), (dates[0], dates[0], False)):
        faults.always(FILE, Fault(Response(200, CONTENT, headers={"Last-Modified": now, "ETag": ""})))
        known = Validators(last_modified=before)
        assert (probe(url, known) == now) == is_other
        assert (download(url, tmp_path / "file", known) is not None) == is_other


def test_nothing_that_is_sent_to_this_machine_goes_through_a_proxy(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would not reach the local sources, and would see their token."""
    http._free.clear()  # sessions that were made without the proxy
    with serve(tmp_path / "data") as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy)
        monkeypatch.setenv("http_proxy", proxy)
        assert get(url, auth=Bearer(SecretStr("s3cret"), "ETL_TOKEN")) == CONTENT
        assert http.clock(url.removesuffix(FILE)) is not None
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        assert probe(url, None) is not None
        with pytest.raises(SourceUnavailableError, match="ProxyError"):
            probe("http://example.org/file", None)


def test_what_another_address_said_of_its_file_tells_nothing_of_this_one(url: str, tmp_path: Path) -> None:
    """A server on this machine has another port each time, and is the same."""
    first = download(url, tmp_path / "file")
    assert first is not None
    for address, is_same in ((url, True), (f"http://127.0.0.1:1{FILE}", True), (f"https://example.org{FILE}", False)):
        known = replace(first.validators, url=address)
        assert (probe(url, known) is None) == is_same
        assert (download(url, tmp_path / "file", known) is None) == is_same


def test_a_server_that_ignores_conditions(url: str, faults: Faults) -> None:
    """It says 200 with the ETag that is known, or has neither ETag nor date."""
    faults.add(FILE, Fault(Response(200, b"", headers={"ETag": '"1"'})), Fault(Response(200, b"")))
    assert probe(url, Validators('"1"')) is None
    assert (probe(url, Validators('"1"')) or "").startswith("unversioned-")


def _in_a_second() -> str:
    return email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=1), usegmt=True)


PASSING: dict[str, Callable[[], Fault]] = {
    "500": lambda: Fault.status(500),
    "503": lambda: Fault.status(503),
    "202 of a firewall": lambda: Fault.status(202, headers={"x-amzn-waf-action": "challenge"}),
    "429": lambda: Fault.status(429, headers={"Retry-After": "0"}),
    "429 until a second from now": lambda: Fault.status(429, headers={"Retry-After": _in_a_second()}),
    "429 until a digit that is none": lambda: Fault.status(429, headers={"Retry-After": "²"}),
    "429 until a time that is none": lambda: Fault.status(429, headers={"Retry-After": "soon"}),
    "hangs": Fault.hang,
    "reset half-way": Fault.reset,
    "truncated": Fault.truncated,
}


@pytest.mark.parametrize("kind", PASSING)
def test_a_passing_failure_is_asked_again(
    url: str, tmp_path: Path, faults: Faults, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind == "hangs":
        monkeypatch.setenv("ETL_HTTP_TIMEOUT", "0.3")
    faults.add(FILE, PASSING[kind](), PASSING[kind]())
    fetched = download(url, tmp_path / "got")
    assert fetched is not None
    assert fetched.path.read_bytes() == CONTENT
    assert len(faults.log) == (1 if kind == "hangs" else 3)  # a request that is never answered is not in the log


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("500", "HTTP 500"),
        ("429", "HTTP 429"),
        ("hangs", "[Tt]imed? ?out"),
        ("reset half-way", "reset"),
        ("truncated", "IncompleteRead|bytes arrived"),
    ],
)
def test_a_lasting_failure_ends_within_the_limit(
    url: str, tmp_path: Path, faults: Faults, monkeypatch: pytest.MonkeyPatch, kind: str, why: str
) -> None:
    monkeypatch.setenv("ETL_HTTP_ATTEMPTS", "2")
    if kind == "hangs":
        monkeypatch.setenv("ETL_HTTP_TIMEOUT", "0.3")
    faults.always(FILE, PASSING[kind]())
    with pytest.raises(SourceUnavailableError, match=f"{url} could not be fetched in 2 attempts .*({why}).*run again"):
        download(url, tmp_path / "got")
    assert len(faults.log) == (0 if kind == "hangs" else 2)


def test_retry_after_is_kept_to(
    url: str, tmp_path: Path, faults: Faults, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("etl_assets.sources.http.time.sleep", slept.append)
    faults.add(FILE, Fault.status(429, headers={"Retry-After": "7"}))
    with caplog.at_level(logging.WARNING):
        assert download(url, tmp_path / "got") is not None
    assert slept == [7.0]
    assert "HTTP 429 Too Many Requests; asking again in 7.0 s" in caplog.text


def test_a_source_that_wants_to_be_left_alone_for_long_is(url: str, tmp_path: Path, faults: Faults) -> None:
    """No run waits for an hour, and none asks again before that is over."""
    faults.always(FILE, Fault.status(429, headers={"Retry-After": "3600"}))
    with pytest.raises(SourceUnavailableError, match=r"HTTP 429.*asks to wait 3600 s.*run again after that"):
        download(url, tmp_path / "got")
    assert len(faults.log) == 1


def test_retry_after_may_be_a_time(url: str, tmp_path: Path, faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("etl_assets.sources.http.time.sleep", slept.append)
    until = datetime.now(UTC) + timedelta(seconds=100)
    faults.add(FILE, Fault.status(429, headers={"Retry-After": email.utils.format_datetime(until, usegmt=True)}))
    assert download(url, tmp_path / "got") is not None
    assert len(slept) == 1
    assert 60 < slept[0] <= 100


@pytest.mark.parametrize(
    ("header", "moment"),
    [
        ("Wed, 05 Mar 2025 10:00:00 GMT", datetime(2025, 3, 5, 10, tzinfo=UTC)),
        ("Wed, 05 Mar 2025 10:00:00 -0000", datetime(2025, 3, 5, 10, tzinfo=UTC)),
        ("Wed, 05 Mar 2025 10:00:00 -0100", datetime(2025, 3, 5, 11, tzinfo=UTC)),
        ("Mon, 01 Jan 99999999999 00:00:00 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 -0100", None),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_a_moment_is_read_or_none(header: str | None, moment: datetime | None) -> None:
    assert moment_of(header) == moment


REFUSED = {
    "404": (Fault.status(404), "HTTP 404 Not Found. Asking again will not help"),
    "401": (Fault.status(401), "HTTP 401"),
    "html": (Fault.html(), "HTML page instead of data"),
    "html that calls itself csv": (
        Fault.body(b"\n <!DOCTYPE html><p>Sorry"),
        r"HTML page instead of data \(text/csv\)",
    ),
    "redirect to html": (Fault.redirect(), "HTML page instead of data"),
    "empty": (Fault.empty(), "with nothing"),
    "bom only": (Fault.body(b"\xef\xbb\xbf\r\n"), "with nothing"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_asking_again_does_not_mend_is_refused_at_once(
    url: str, tmp_path: Path, faults: Faults, kind: str
) -> None:
    fault, why = REFUSED[kind]
    faults.always(FILE, fault)
    with pytest.raises(SourceRefusedError, match=f"{url} answered .*{why}.*last good file stays"):
        download(url, tmp_path / "got")
    assert faults.count(FILE) == 1


def test_a_server_that_is_not_there(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETL_HTTP_ATTEMPTS", "2")
    gone = url.replace("127.0.0.1", "127.0.0.2")
    with pytest.raises(SourceUnavailableError, match=r"could not be fetched in 2 attempts .*refused"):
        probe(gone, None)
    with pytest.raises(SourceUnavailableError, match="could not be fetched in 2 attempts"):
        download(gone, tmp_path / "got")


def test_an_address_is_shown_without_what_is_secret() -> None:
    assert public("https://user:word@example.org:8443/a/b?key=1#c") == "https://example.org:8443/a/b"
    assert public("http://user:word@[::1]:8000/x") == "http://[::1]:8000/x"


@pytest.mark.parametrize(
    "address", ["ftp://robot:hunter2@host/f", "robot:hunter2@host/f", "file:///hunter2", "http://h:hunter2/f"]
)
def test_an_address_that_cannot_be_asked_is_refused_without_being_told_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, address: str
) -> None:
    with pytest.raises(SourceRefusedError, match="is not a valid HTTP address") as caught:
        download(address.replace("/hunter2", "/f"), tmp_path / "got")
    assert caught.value.__cause__ is None
    assert "robot" not in f"{caught.value}{caplog.text}"


def test_what_is_no_address_at_all_is_refused(tmp_path: Path) -> None:
    for ask in (partial(probe, known=None), partial(download, to=tmp_path / "got")):
        with pytest.raises(SourceRefusedError, match="The address that is set for it is not a URL") as caught:
            ask("http://robot:hunter2@[bad/f")
        assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (Fault.status(204), "answered HTTP 204, without content"),
        (
            Fault.status(301, headers={"Location": "http://[::1"}),
            "is not a valid HTTP address, redirects to an invalid one",
        ),
    ],
)
def test_an_answer_without_a_file(url: str, tmp_path: Path, faults: Faults, fault: Fault, why: str) -> None:
    faults.always(FILE, fault)
    with pytest.raises(SourceRefusedError, match=f"{FILE} {why}.*last good"):
        download(url, tmp_path / "got")


def test_without_a_length_nobody_can_tell_that_a_file_was_cut_short(url: str, tmp_path: Path, faults: Faults) -> None:
    """What is then left of it is judged by its size, and by what it holds."""
    faults.add(FILE, Fault.truncated(0.5, is_announced=False))
    fetched = download(url, tmp_path / "got")
    assert fetched is not None
    assert fetched.path.read_bytes() == CONTENT[: len(CONTENT) // 2]


def test_a_server_that_has_a_date_only_and_ignores_conditions(url: str, faults: Faults) -> None:
    """Nothing is fetched for that, with every tick of a sensor."""
    date = "Wed, 05 Mar 2025 00:00:00 GMT"
    faults.add(FILE, Fault(Response(200, b"", headers={"Last-Modified": date})))
    assert probe(url, Validators(last_modified=date)) is None


def test_a_file_that_is_sent_compressed(url: str, tmp_path: Path, faults: Faults) -> None:
    """The announced length is of what is sent, not of what it holds."""
    faults.always(FILE, Fault(Response(200, gzip.compress(CONTENT), "text/csv", {"Content-Encoding": "gzip"})))
    fetched = download(url, tmp_path / "got")
    assert fetched is not None
    assert fetched.path.read_bytes() == CONTENT


def test_connections_are_given_back_whatever_comes_of_them(url: str, tmp_path: Path, faults: Faults) -> None:
    """Else whoever asks the same host next would wait for ever."""
    faults.always(FILE, Fault.status(404))
    for _ in range(http.CONCURRENCY):
        with pytest.raises(SourceRefusedError):
            download(url, tmp_path / "got")
    assert http._free[urlsplit(url).netloc].qsize() == http.CONCURRENCY


def test_a_token_is_of_one_request(tmp_path: Path) -> None:
    """The connection that it was sent over is used again, for what wants none."""
    sent: list[str | None] = []

    def answer(request: Request) -> Response:
        sent.append(request.headers.get("authorization"))
        return Response(200, CONTENT)

    with serve(tmp_path, routes={"events": answer}) as base:
        get(base + FILE, auth=Bearer(SecretStr("token"), "ETL_TOKEN"))
        get(base + FILE)
    assert sent == ["Bearer token", None]


def test_a_page_that_is_larger_than_any_is_not_read_to_its_end(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_LARGEST_PAGE", len(CONTENT) - 1)
    with pytest.raises(SourceRefusedError, match="answered with more than"):
        get(url)
