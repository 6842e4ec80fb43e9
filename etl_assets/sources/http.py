"""One HTTP client for all sources: conditional requests, retries with backoff, and answers that are what they claim.

Requests with passing errors (429 with its Retry-After, 5xx, connections, fewer bytes than announced) are repeated
within a limit; lasting errors (other 4xx, an HTML page instead of data, an empty answer) are refused at once. A process
keeps a few connections to each host open, and never has more requests than that in progress there.
"""

from __future__ import annotations

import email.utils
import logging
import os
import random
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from queue import LifoQueue
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import requests
import requests.auth
from pydantic import SecretStr

from etl_assets.logs import plain
from etl_assets.settings import NotConfiguredError, settings
from etl_assets.sources import Fetched, SourceRefusedError, SourceUnavailableError, Validators

log = logging.getLogger(__name__)

USER_AGENT = "etl-assets (https://dagster.io; data pipeline)"
#: Concurrent requests to one host.
CONCURRENCY = 4
#: How servers that accept only GET answer HEAD.
_NO_HEAD = (403, 405, 501)
_HTML_MEANS = "it has moved, needs a login or is under maintenance. Open it in a browser"
#: 202 is how firewalls answer clients that they take for robots.
_PASSING = {202, 408, 425, 429, 500, 502, 503, 504}
_LONGEST_WAIT = 120.0
_LARGEST_PAGE = 256 << 20
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_KEPT_HEADERS = ("ETag", "Last-Modified", "Content-Type", "Content-Length", "Date")


class _Session(requests.Session):
    """A connection that is kept open, with the project's name and patience."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.headers["User-Agent"] = USER_AGENT
        self.patience = 60.0
        # A proxy of the environment (HTTP_PROXY) does not reach this machine, and is not to see what is sent to it.
        self.trust_env = urlsplit(url).hostname not in _LOOPBACK

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        return super().request(*args, **{"timeout": (min(10.0, self.patience), self.patience)} | kwargs)


#: The sessions of each host that are not in use.
_free: dict[str, LifoQueue[_Session]] = {}
# A connection cannot be shared with a forked child: both would read the same answers.
os.register_at_fork(after_in_child=_free.clear)


@contextmanager
def _session(url: str) -> Generator[_Session]:
    """A session for a URL's host, as soon as one is free."""
    host = urlsplit(url).netloc
    if host not in _free:
        sessions: LifoQueue[_Session] = LifoQueue()
        for _ in range(CONCURRENCY):
            sessions.put(_Session(url))
        _free.setdefault(host, sessions)
    free = _free[host]
    session = free.get()
    try:
        yield session
    finally:
        free.put(session)


@dataclass(frozen=True)
class Bearer(requests.auth.AuthBase):
    """A bearer token, and the variable that sets it. It is sent to the host that was asked, and to no other."""

    token: SecretStr
    variable: str

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Put the token into a request's header, as `requests` asks of an authentication."""
        request.headers["Authorization"] = f"Bearer {self.token.get_secret_value()}"
        return request


def probe(url: str, known: Validators | None, auth: Bearer | None = None) -> str | None:
    """Ask with HEAD whether there is another version than the known one: its ETag or date, or None.

    Servers that refuse HEAD (signed addresses, some gateways) are asked with GET, and the body is not read.
    """

    known = _if_from(url, known)

    def ask(session: requests.Session) -> requests.Response:
        response = session.head(url, headers=_conditions(known), allow_redirects=True)
        if response.status_code in _NO_HEAD:
            with session.get(url, headers=_conditions(known), stream=True) as response:
                return response
        return response

    response = _with_retries(url, ask, auth)
    if _is_known(response, known):
        return None
    version = response.headers.get("ETag") or response.headers.get("Last-Modified")
    return version or f"unversioned-{datetime.now(UTC):%Y-%m-%d}"


def download(url: str, to: Path, known: Validators | None = None) -> Fetched | None:
    """Fetch `url` into the file `to`; None if the known version is still current.

    Raises SourceRefusedError for an answer that asking again will not mend, SourceUnavailableError when the attempts
    are used up. `to` is whole or is not used.
    """
    known = _if_from(url, known)

    def get(session: requests.Session) -> requests.Response:
        with session.get(url, headers=_conditions(known), stream=True) as response:
            if response.status_code == 200 and not _is_known(response, known):
                received = 0
                with to.open("wb") as sink:
                    for chunk in response.iter_content(1 << 20):
                        sink.write(chunk)
                        received += len(chunk)
                announced = response.headers.get("Content-Length", "")
                if announced.isdecimal() and "Content-Encoding" not in response.headers and received != int(announced):
                    raise requests.exceptions.ChunkedEncodingError(f"{received} of {announced} bytes arrived")
            return response

    response = _with_retries(url, get)
    if _is_known(response, known):
        return None
    if response.status_code == 204:
        raise SourceRefusedError(f"{public(url)} answered HTTP 204, without content. The last good file stays.")
    with to.open("rb") as file:
        _refuse_html(url, file.read(512), response.headers.get("Content-Type", ""))
    headers = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
    return Fetched(to, public(url), Validators(headers.get("ETag"), headers.get("Last-Modified")), headers)


def get(
    url: str,
    parameters: Mapping[str, str] | None = None,
    html_means: str = _HTML_MEANS,
    auth: Bearer | None = None,
) -> bytes | None:
    """The body of a small answer, such as a page; None for 204 (there is nothing yet).

    Raises as `download` does, and NotConfiguredError for a token that is not accepted. `parameters` may hold secrets:
    they are never in a message. `html_means` is what the error says about an HTML page that comes instead of data.
    """

    def ask(session: requests.Session) -> requests.Response:
        with session.get(url, params=parameters, stream=True) as response:
            body = bytearray()
            for chunk in response.iter_content(1 << 16):
                body += chunk
                if len(body) > _LARGEST_PAGE:
                    raise SourceRefusedError(
                        f"{public(url)} answered with more than {_LARGEST_PAGE >> 20} MB, too much for one page. The "
                        "last good file stays."
                    )
            response._content = bytes(body)
            return response

    response = _with_retries(url, ask, auth)
    if response.status_code == 204:
        return None
    _refuse_html(url, response.content[:512], response.headers.get("Content-Type", ""), html_means)
    return response.content


def clock(origin: str) -> datetime | None:
    """The time at an origin (`https://example.org`), by its answers; None if it gives none, or does not date them."""
    with _session(origin) as session:
        try:
            return moment_of(session.head(origin, timeout=10, allow_redirects=False).headers.get("Date"))
        except requests.RequestException:
            return None


def public(url: str) -> str:
    """A URL without what may be secret: user, password and query; raises SourceRefusedError if it is not a URL."""
    try:
        parts = urlsplit(url if "://" in url else f"//{url}")
    except ValueError:  # the error quotes the whole address, secrets included
        raise SourceRefusedError(
            "The address that is set for it is not a URL: check it. The last good file stays."
        ) from None
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def service(url: str) -> str:
    """A public URL that identifies a service: without the port of a server on this machine, which varies."""
    parts = urlsplit(public(url))
    return urlunsplit(parts._replace(netloc=parts.hostname)) if parts.hostname in _LOOPBACK else urlunsplit(parts)


def moment_of(header: str | None) -> datetime | None:
    """The moment (UTC) in a header such as Last-Modified; None if there is none that can be read."""
    try:
        found = email.utils.parsedate_to_datetime(header or "")
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _if_from(url: str, known: Validators | None) -> Validators | None:
    """What is known, unless it is from another address, whose answers say nothing about this one's file."""
    here = service(url)
    return known if known and (known.url is None or service(known.url) == here) else None


def _refuse_html(url: str, start: bytes, content_type: str, means: str = _HTML_MEANS) -> None:
    """Refuse an empty answer, and an HTML page that came instead of data."""
    start = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        raise SourceRefusedError(f"{public(url)} answered with nothing. The last good file stays.")
    if start.startswith((b"<!doctype html", b"<html")) or content_type.startswith("text/html"):
        raise SourceRefusedError(
            f"{public(url)} answered with an HTML page instead of data ({content_type or 'no content type'}): "
            f"{means}; the last good file stays."
        )


def _conditions(known: Validators | None) -> dict[str, str]:
    """Headers that ask for another version only.

    Not If-Modified-Since: to a server, a file of before that is back again has not been modified since.
    """
    return {"If-None-Match": known.etag} if known and known.etag else {}


def _is_known(response: requests.Response, known: Validators | None) -> bool:
    """Whether an answer is the known version: it says so, or has its ETag, or (without one) its date."""
    if known is None or response.status_code != 200:
        return response.status_code == 304
    etag, date = response.headers.get("ETag"), response.headers.get("Last-Modified")
    return etag == known.etag if etag and known.etag else date is not None and date == known.last_modified


def _with_retries(
    url: str, ask: Callable[[requests.Session], requests.Response], auth: Bearer | None = None
) -> requests.Response:
    configured = settings()
    failure = ""
    with _session(url) as session:
        session.patience, session.auth = configured.http_timeout, auth
        for attempt in range(1, configured.http_attempts + 1):
            backoff = configured.http_retry_wait * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)  # noqa: S311 jitter
            wait = min(backoff, _LONGEST_WAIT)
            try:
                response = ask(session)
            except (ValueError, requests.TooManyRedirects) as error:  # from requests, and from the standard library
                raise SourceRefusedError(
                    f"{public(url)} is not a valid HTTP address, redirects to an invalid one, or redirects too often "
                    f"({type(error).__name__}): check it. The last good file stays."
                ) from None  # the error quotes the whole address, secrets included
            except requests.RequestException as error:
                failure = f"{type(error).__name__}: {_reason(error)}"
            else:
                if response.status_code in (200, 204, 304):
                    return response
                failure = _passing_failure(url, response, auth)
                wait = max(wait, _retry_after(response))
            if attempt < configured.http_attempts:
                log.warning("%s: %s; asking again in %.1f s", public(url), failure, wait)
                time.sleep(wait)
    raise SourceUnavailableError(
        f"{public(url)} could not be fetched in {configured.http_attempts} attempts ({failure}). "
        "The last good file stays; run again later."
    )


def _passing_failure(url: str, response: requests.Response, auth: Bearer | None) -> str:
    """What an answer says that may be different the next time; raises if asking again will not help."""
    if response.status_code == 401 and auth is not None:
        raise NotConfiguredError(
            f"{public(url)} does not accept the token in {auth.variable}: it is wrong or has expired (HTTP 401). Set "
            f"{auth.variable} to a valid one and run again: an interrupted extract continues with the page that it "
            "lacks."
        )
    failure = f"HTTP {response.status_code} {response.reason}"
    if "x-amzn-waf-action" in response.headers:
        failure += ", its firewall accepts only browsers: ask less often, or from another address"
    if response.status_code not in _PASSING:
        raise SourceRefusedError(
            f"{public(url)} answered {failure}{_said(response)}. Asking again will not help: check the address. The "
            "last good file stays."
        )
    if (asked := _retry_after(response)) > _LONGEST_WAIT:
        raise SourceUnavailableError(
            f"{public(url)} answered {failure}, and asks to wait {asked:.0f} s. The last good file stays; "
            "run again after that."
        )
    return failure


def _said(response: requests.Response) -> str:
    """The text that a source gives with an error, cut short; empty if it is neither plain text nor JSON."""
    if not response.headers.get("Content-Type", "").startswith(("text/plain", "application/json")):
        return ""
    try:
        text = plain(" ".join(response.text.split()), 200)  # some repeat the key that they were given
    except (requests.RequestException, RuntimeError):  # the body was streamed, or did not arrive
        return ""
    return f" ({text})" if text.isprintable() and text else ""


def _retry_after(response: requests.Response) -> float:
    value = response.headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    moment = moment_of(value)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds()) if moment else 0.0


def _reason(error: requests.RequestException) -> str:
    """The innermost cause: what requests says around it holds the address with its query."""
    cause: BaseException = error
    while (inner := cause.__cause__ or cause.__context__) is not None:
        cause = inner
    return plain(str(cause), 200)
