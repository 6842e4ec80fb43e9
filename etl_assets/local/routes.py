"""What a route of the source server is asked, and what it answers.

Here: the types that the server and the APIs behind it share. Not here: HTTP (source_server.py), and the APIs (apis).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from etl_assets.local.recordings import Recordings


@dataclass(frozen=True)
class Request:
    """What a route is asked: path segments and query decoded, header names in lower case.

    `token` is what protected routes accept; if it is empty, they accept none.
    """

    method: str
    path: str
    segments: tuple[str, ...]
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    recordings: Recordings
    token: str = ""


@dataclass(frozen=True)
class Response:
    """What a route answers; Content-Length is added, and a HEAD request gets no body."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)


#: Answers a request, or returns None to leave it to the file replay.
Route = Callable[[Request], Response | None]
