"""The source server over real HTTP: what it shows when, conditional requests, misbehaviour, the process."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import requests

from etl_assets.local.recordings import publications
from etl_assets.local.routes import Request, Response
from etl_assets.local.source_process import SourceServer
from etl_assets.local.source_server import serve
from etl_assets_tests.faults import Fault, Faults

EVENTS = "/events/events.csv"
OLD, NEW = b"id\n1\n", b"id\n1\n2\n"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for name, content in {
        "events/2025-03-05/events.csv.gz": gzip.compress(OLD),
        "events/2025-04-04/events.csv.gz": gzip.compress(NEW),
        "borders/2010/borders.geojson": b"{}",
        "borders/2022/borders.geojson": b"{} ",
        "shop/sales.csv": b"sale\n",
        "census/saipe/state_2014.json": b"[]",
        "mixed/2021-08-31/dated.json": b"1",
        "mixed/example.json": b"2",
        "secret.csv": b"not a source",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (tmp_path / "outside.csv").write_bytes(b"TOP SECRET")
    return folder


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SourceServer]:
    server = SourceServer(tmp_path / "home")
    yield server
    server.stop()


def raw_get(url: str, path: str, method: str = "GET") -> tuple[int, bytes]:
    """Ask for exactly this path; requests would tidy it up first."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    try:
        connection.putrequest(method, path)
        connection.endheaders()
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


# --- what is shown


def test_lists_publications_oldest_first(data: Path):
    assert publications(data) == {
        "borders": ["2010", "2022"],
        "census": [],
        "events": ["2025-03-05", "2025-04-04"],
        "mixed": ["2021-08-31"],
        "shop": [],
    }


@pytest.mark.parametrize(
    ("as_of", "expected"),
    [
        (None, NEW),
        ("2025-04-04", NEW),
        ("2025-04-03", OLD),
        ("2025-03-05", OLD),
        ("1999-12-31", OLD),  # none that old: the oldest
        ("2025-03", OLD),  # a month is meant to its end, and so is a year
        ("2025-04", NEW),
        ("2025", NEW),
    ],
)
def test_shows_newest_publication_not_after_the_date(data: Path, as_of: str | None, expected: bytes):
    with serve(data, as_of=as_of) as url:
        assert requests.get(url + EVENTS, timeout=10).content == expected


@pytest.mark.parametrize(("as_of", "expected"), [("2021-12-31", b"{}"), ("2022-01-01", b"{} "), ("2005", b"{}")])
def test_publication_dated_by_year(data: Path, as_of: str, expected: bytes):
    with serve(data, as_of=as_of) as url:
        response = requests.get(url + "/borders/borders.geojson", timeout=10)
    assert response.content == expected
    assert response.headers["Content-Type"] == "application/geo+json"


def test_files_without_a_dated_folder_are_always_shown(data: Path):
    with serve(data, as_of="1999") as url:
        assert requests.get(url + "/shop/sales.csv", timeout=10).content == b"sale\n"
        assert requests.get(url + "/census/saipe/state_2014.json", timeout=10).content == b"[]"
        assert requests.get(url + "/mixed/example.json", timeout=10).content == b"2"
        assert requests.get(url + "/mixed/dated.json", timeout=10).content == b"1"


def test_date_is_read_at_every_request(data: Path, tmp_path: Path):
    as_of = tmp_path / "as_of"
    with serve(data, as_of=as_of) as url:
        assert requests.get(url + EVENTS, timeout=10).content == NEW
        as_of.write_text("2025-03-05\n")
        assert requests.get(url + EVENTS, timeout=10).content == OLD


def test_index_lists_what_is_shown(data: Path):
    with serve(data, as_of="2025-03-05") as url:
        index = requests.get(url, timeout=10).json()
    assert index["as_of"] == "2025-03-05"
    assert index["sources"]["events"] == {"publication": "2025-03-05", "files": ["events.csv"]}
    assert index["sources"]["census"] == {"publication": "undated", "files": ["saipe/state_2014.json"]}
    assert index["sources"]["mixed"]["files"] == ["dated.json", "example.json"]


@pytest.mark.parametrize("as_of", ["yesterday", "2025-02-30", "2025-13", "2025-3-5", ""])
def test_refuses_what_is_no_date(data: Path, server: SourceServer, as_of: str):
    with pytest.raises(ValueError, match="not a date"):
        server.start(data, as_of)
    assert not server.is_running()


def test_refuses_a_folder_without_sources(tmp_path: Path, server: SourceServer):
    with pytest.raises(FileNotFoundError, match="no folder of recorded sources"):
        server.start(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="<source>/<publication date>/<file>"):
        server.start(tmp_path / "empty")


# --- HTTP


def test_get_and_head(data: Path):
    with serve(data) as url:
        got, head = requests.get(url + EVENTS, timeout=10), requests.head(url + EVENTS, timeout=10)
    assert (got.status_code, got.content) == (200, NEW)
    assert got.headers["ETag"] == f'"{hashlib.sha256(NEW).hexdigest()}"'
    assert got.headers["Last-Modified"] == "Fri, 04 Apr 2025 00:00:00 GMT"
    assert got.headers["Content-Type"] == "text/csv"
    assert "Content-Encoding" not in got.headers
    assert (head.status_code, head.content) == (200, b"")
    for name in ("ETag", "Last-Modified", "Content-Type", "Content-Length"):
        assert head.headers[name] == got.headers[name]


def test_undated_file_was_modified_when_it_was_written(data: Path):
    os.utime(data / "shop/sales.csv", (1_700_000_000.7, 1_700_000_000.7))
    with serve(data) as url:
        response = requests.get(url + "/shop/sales.csv", timeout=10)
        again = requests.get(
            url + "/shop/sales.csv",
            headers={"If-Modified-Since": response.headers["Last-Modified"]},
            timeout=10,
        )
    assert response.headers["Last-Modified"] == "Tue, 14 Nov 2023 22:13:20 GMT"
    assert again.status_code == 304


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-None-Match": "{etag}"}, 304),
        ({"If-None-Match": "W/{etag}"}, 304),
        ({"If-None-Match": '"x", {etag}'}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": '"x"'}, 200),
        ({"If-Modified-Since": "Fri, 04 Apr 2025 00:00:00 GMT"}, 304),
        ({"If-Modified-Since": "Sat, 05 Apr 2025 00:00:00 GMT"}, 304),
        ({"If-Modified-Since": "Thu, 03 Apr 2025 23:59:59 GMT"}, 200),
        ({"If-Modified-Since": "lately"}, 200),
        ({"If-None-Match": '"x"', "If-Modified-Since": "Sat, 05 Apr 2025 00:00:00 GMT"}, 200),
        ({"If-None-Match": "{etag}", "If-Modified-Since": "Thu, 03 Apr 2025 00:00:00 GMT"}, 304),
    ],
)
def test_conditional_requests(data: Path, method: str, headers: dict[str, str], status: int):
    etag = f'"{hashlib.sha256(NEW).hexdigest()}"'
    sent = {name: value.replace("{etag}", etag) for name, value in headers.items()}
    with serve(data) as url:
        response = requests.request(method, url + EVENTS, headers=sent, timeout=10)
    assert response.status_code == status
    assert response.headers["ETag"] == etag
    assert response.content == (NEW if (method, status) == ("GET", 200) else b"")


def test_etag_follows_the_bytes_and_not_the_file(data: Path):
    file = data / "events/2025-04-04/events.csv.gz"
    with serve(data) as url:
        before = requests.head(url + EVENTS, timeout=10).headers["ETag"]
        file.write_bytes(gzip.compress(NEW, compresslevel=0))
        assert requests.head(url + EVENTS, timeout=10).headers["ETag"] == before
        file.write_bytes(gzip.compress(NEW + b"3\n"))
        assert requests.head(url + EVENTS, timeout=10).headers["ETag"] != before


def test_connection_is_kept_alive(data: Path):
    with serve(data) as url:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
        for method, status in [("GET", 200), ("HEAD", 200), ("POST", 405), ("GET", 200)]:
            connection.request(method, EVENTS, body=b"x=1" if method == "POST" else None)
            sock = connection.sock
            response = connection.getresponse()
            assert response.status == status
            response.read()
            assert connection.sock is sock
        connection.close()


def test_closed_server_does_not_answer_on_an_open_connection(data: Path):
    with requests.Session() as session:
        with serve(data) as url:
            session.get(url + EVENTS, timeout=10)
        with pytest.raises(requests.ConnectionError):
            session.get(url + EVENTS, timeout=10)


@pytest.mark.parametrize(
    "path",
    [
        "/events/nothing.csv",
        "/events",
        "/events/",
        "/nothing/events.csv",
        "/secret.csv",
        "/events/2025-03-05/events.csv",  # a publication is chosen by date
        "/events/2025-03-05/../2025-03-05/events.csv",
        "/../outside.csv",
        "/events/../../outside.csv",
        "/events/..%2f..%2f..%2foutside.csv",
        "/events/%2e%2e/%2e%2e/%2e%2e/outside.csv",
        "/events/..%5c..%5coutside.csv",
        "/..%2foutside.csv",
        "//outside.csv",
        "/events//events.csv",
        "/events/events.csv%00",
        "/events/%ff%fe",
        "/" + "a" * 5000 + "/b",
    ],
)
def test_not_found(data: Path, path: str):
    with serve(data) as url:
        status, body = raw_get(url, path)
        assert raw_get(url, EVENTS) == (200, NEW)
    assert status == 404
    assert b"TOP SECRET" not in body


def test_absolute_path_of_a_file_is_not_found(data: Path, tmp_path: Path):
    with serve(data) as url:
        assert raw_get(url, str(tmp_path / "outside.csv"))[0] == 404
        assert raw_get(url, "/events/" + str(tmp_path / "outside.csv").replace("/", "%2f"))[0] == 404


def test_only_get_and_head(data: Path):
    with serve(data) as url:
        response = requests.post(url + EVENTS, data=b"x", timeout=10)
    assert response.status_code == 405
    assert response.headers["Allow"] == "GET, HEAD"


def test_broken_recording_is_an_error_with_a_reason(data: Path):
    (data / "events/2025-04-04/events.csv.gz").write_bytes(b"not gzip")
    with serve(data) as url:
        response = requests.get(url + EVENTS, timeout=10)
        assert requests.get(url + "/shop/sales.csv", timeout=10).ok
    assert response.status_code == 500
    assert "BadGzipFile" in response.text


def test_packed_name_is_served_packed(data: Path):
    with serve(data) as url:
        response = requests.get(url + EVENTS + ".gz", timeout=10)
    assert response.headers["Content-Type"] == "application/gzip"
    assert gzip.decompress(response.content) == NEW


def test_many_clients_at_once(data: Path):
    answers: list[bytes] = []
    with serve(data) as url:
        threads = [
            threading.Thread(target=lambda: answers.append(requests.get(url + EVENTS, timeout=10).content))
            for _ in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == [NEW] * 20


def test_routes_answer_for_apis(data: Path):
    def api(request: Request) -> Response | None:
        if request.segments[1:] == ("v1", "rows"):
            recording = request.recordings.find("events", "events.csv")
            assert recording
            answer = {"query": request.query, "bytes": len(recording.read())}
            return Response(200, json.dumps(answer).encode(), "application/json")
        return None

    with serve(data, as_of="2025-03-05", routes={"events": api}) as url:
        answer = requests.get(url + "/events/v1/rows", params={"page[size]": ["2", ""]}, timeout=10)
        assert answer.json() == {"query": {"page[size]": ["2", ""]}, "bytes": len(OLD)}
        assert requests.get(url + EVENTS, timeout=10).content == OLD  # left to the file replay
        assert requests.get(url + "/shop/sales.csv", timeout=10).ok


# --- misbehaviour


def test_faults_are_answered_in_order_and_then_all_is_well(data: Path):
    faults = Faults()
    faults.add(EVENTS, Fault.status(500), Fault.status(429, headers={"Retry-After": "1"}), Fault.status(404))
    with serve(data, handler=faults.handler()) as url:
        responses = [requests.get(url + EVENTS, timeout=10) for _ in range(4)]
        assert requests.get(url + "/shop/sales.csv", timeout=10).ok
    assert [response.status_code for response in responses] == [500, 429, 404, 200]
    assert responses[1].headers["Retry-After"] == "1"
    assert responses[3].content == NEW


def test_standing_fault_lasts_until_cleared(data: Path):
    faults = Faults()
    faults.always(EVENTS, Fault.status(503))
    faults.add(EVENTS, Fault.status(500))
    with serve(data, handler=faults.handler()) as url:
        assert [requests.get(url + EVENTS, timeout=10).status_code for _ in range(3)] == [500, 503, 503]
        faults.clear()
        assert requests.get(url + EVENTS, timeout=10).content == NEW


def test_wrong_bodies(data: Path):
    faults = Faults()
    faults.add(EVENTS, Fault.html(), Fault.empty(), Fault.body(b"\x00\xff"), Fault.redirect())
    with serve(data, handler=faults.handler()) as url:
        html, empty, odd, redirected = (requests.get(url + EVENTS, timeout=10) for _ in range(4))
    assert html.status_code == redirected.status_code == 200
    assert html.headers["Content-Type"] == redirected.headers["Content-Type"] == "text/html; charset=utf-8"
    assert html.content == redirected.content
    assert html.content.startswith(b"<!DOCTYPE html>")
    assert [hop.status_code for hop in redirected.history] == [302]
    assert (empty.content, empty.headers["Content-Length"]) == (b"", "0")
    assert odd.content == b"\x00\xff"
    assert odd.headers["ETag"] == f'"{hashlib.sha256(odd.content).hexdigest()}"'


def test_truncated_body_is_shorter_than_it_says(data: Path):
    faults = Faults()
    faults.add(EVENTS, Fault.truncated())
    with serve(data, handler=faults.handler()) as url:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
        connection.request("GET", EVENTS)
        response = connection.getresponse()
        assert response.headers["Content-Length"] == str(len(NEW))
        with pytest.raises(http.client.IncompleteRead) as error:
            response.read()
        connection.close()
    assert error.value.partial == NEW[: len(NEW) // 2]


def test_reset_connection(data: Path):
    faults = Faults()
    faults.add(EVENTS, Fault.reset())
    with serve(data, handler=faults.handler()) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as client:
            client.sendall(f"GET {EVENTS} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            answer = iter(lambda: client.recv(65536), b"")
            with pytest.raises(ConnectionResetError):
                list(answer)
        assert requests.get(url + EVENTS, timeout=10).content == NEW


def test_hanging_answer_ends_with_the_server(data: Path):
    faults = Faults()
    faults.add(EVENTS, Fault.hang(), Fault.hang(0.2))
    started = time.monotonic()
    with serve(data, handler=faults.handler()) as url:
        with pytest.raises(requests.ReadTimeout):
            requests.get(url + EVENTS, timeout=0.2)
        assert requests.get(url + EVENTS, timeout=10).content == NEW
    assert time.monotonic() - started < 5


def test_log_of_requests(data: Path):
    faults = Faults()
    faults.add(EVENTS, Fault.status(500))
    with serve(data, handler=faults.handler()) as url:
        requests.get(url + EVENTS + "?page=2", headers={"If-None-Match": '"x"'}, timeout=10)
        requests.head(url + EVENTS, timeout=10)
        requests.get(url + "/nothing", timeout=10)
    assert [(entry.method, entry.path, entry.query, entry.status) for entry in faults.log] == [
        ("GET", EVENTS, "page=2", 500),
        ("HEAD", EVENTS, "", 200),
        ("GET", "/nothing", "", 404),
    ]
    assert faults.log[0].headers["if-none-match"] == '"x"'
    assert faults.count(EVENTS) == 2
    assert faults.count(EVENTS, method="GET") == faults.count(EVENTS, status=500) == 1


# --- the detached process


def test_start_is_idempotent_and_stop_ends_it(data: Path, server: SourceServer):
    assert not server.is_running()
    with pytest.raises(RuntimeError, match="is not running"):
        server.url()
    url = server.start(data)
    assert server.start(data) == url == server.url()
    assert requests.get(url + EVENTS, timeout=10).content == NEW
    server.stop()
    assert not server.is_running()
    with pytest.raises(requests.ConnectionError):
        requests.get(url + EVENTS, timeout=10)
    server.stop()
    assert server.start(data) == url  # the port is remembered


def test_port_taken_meanwhile(data: Path, server: SourceServer):
    url = server.start(data)
    server.stop()
    address = ("127.0.0.1", int(url.rsplit(":", 1)[1]))
    with HTTPServer(address, BaseHTTPRequestHandler) as squatter:
        threading.Thread(target=squatter.serve_forever, daemon=True).start()
        other = server.start(data)
        squatter.shutdown()
    assert other != url
    assert requests.get(other + EVENTS, timeout=10).content == NEW


def test_publish_changes_the_date_while_running(data: Path, server: SourceServer):
    url = server.start(data, "2025-03-05")
    assert requests.get(url + EVENTS, timeout=10).content == OLD
    shown = server.publish("2025-04-04")
    assert shown["events"] == "2025-04-04"
    assert shown["shop"] == "undated"
    assert requests.get(url + EVENTS, timeout=10).content == NEW
    server.start(data, "2025-03-05")
    assert requests.get(url + EVENTS, timeout=10).content == OLD


def test_date_survives_a_restart(data: Path, server: SourceServer):
    server.start(data)
    server.publish("2025-03-05")
    server.stop()
    assert requests.get(server.start(data) + EVENTS, timeout=10).content == OLD


def test_publish_needs_a_server_that_knows_its_data(server: SourceServer):
    with pytest.raises(RuntimeError, match="never started"):
        server.publish("2025-04-04")


def test_refused_date_changes_nothing(data: Path, server: SourceServer):
    url = server.start(data, "2025-03-05")
    with pytest.raises(ValueError, match="not a date"):
        server.publish("soon")
    assert requests.get(url + EVENTS, timeout=10).content == OLD


def test_spoilt_date_file_is_reported_and_does_not_lose_the_server(data: Path, server: SourceServer):
    url = server.start(data)
    (server.home / "as_of").write_text("soon")
    response = requests.get(url + EVENTS, timeout=10)
    assert response.status_code == 500
    assert "not a date" in response.text
    assert server.start(data) == url
    server.publish("2025-03-05")
    assert requests.get(url + EVENTS, timeout=10).content == OLD


def test_another_folder_restarts_it_and_forgets_the_date(data: Path, tmp_path: Path, server: SourceServer):
    url = server.start(data, "2025-03-05")
    other = tmp_path / "other" / "events" / "2026-01-01"
    other.mkdir(parents=True)
    (other / "events.csv").write_bytes(b"other")
    assert server.start(tmp_path / "other") == url
    assert requests.get(url + EVENTS, timeout=10).content == b"other"
    assert requests.get(server.start(data) + EVENTS, timeout=10).content == NEW


def test_survives_whoever_started_it_with_signals_restored(data: Path, server: SourceServer):
    # As a background job of a script: SIGINT and SIGTERM are ignored there, and inherited.
    program = (
        "import signal, sys; from pathlib import Path; from etl_assets.local.source_process import SourceServer\n"
        "for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, signal.SIG_IGN)\n"
        "SourceServer(Path(sys.argv[1])).start(Path(sys.argv[2]))"
    )
    subprocess.run([sys.executable, "-c", program, server.home, data], check=True, capture_output=True)
    assert requests.get(server.url() + EVENTS, timeout=10).content == NEW
    pid = json.loads((server.home / "server.json").read_text())["pid"]
    assert os.getsid(pid) == pid
    started = time.monotonic()
    server.stop()
    assert not server.is_running()
    assert time.monotonic() - started < 4  # by SIGTERM, and not after waiting for it in vain


def test_killed_server_is_started_again(data: Path, server: SourceServer):
    url = server.start(data)
    os.kill(json.loads((server.home / "server.json").read_text())["pid"], 9)
    deadline = time.monotonic() + 5
    while server.is_running() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.start(data) == url
    assert requests.get(url + EVENTS, timeout=10).content == NEW


def test_process_of_someone_else_is_not_ended(data: Path, server: SourceServer):
    server.start(data)
    server.stop()
    state = server.home / "server.json"
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        state.write_text(json.dumps(json.loads(state.read_text()) | {"pid": bystander.pid}))
        server.stop()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_two_starts_at_once_are_one_server(data: Path, server: SourceServer):
    urls: list[str] = []
    threads = [threading.Thread(target=lambda: urls.append(server.start(data))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(urls) == 4
    assert len(set(urls)) == 1
