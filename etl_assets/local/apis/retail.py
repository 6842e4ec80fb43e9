"""The retail company: two tables in numbered pages, for callers that have the token.

Here: the check of the token, pages, ETags and errors.
Not here: which token is valid (source_server.py is given it), and the company's sources that are files.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping

from etl_assets.local.apis.querying import BadQueryError, parameter, read, whole_number
from etl_assets.local.routes import Request, Response

_TABLES = {"customers": "customer_data.json", "exchange_rates": "exchange_rates.json"}
_LARGEST_PAGE = 500


def retail(request: Request) -> Response | None:
    """The retail company's API under `/retail`, for callers that send `Authorization: Bearer <token>`; else 401.

    `GET /retail/customers` and `/retail/exchange_rates` answer with a page of the recorded array:
    `{"data": […], "total": 1000, "page": 2, "pages": 5}`. `page` counts from 1, `page_size` is 100 by default and at
    most 500. Every page carries the ETag of the whole table; a caller that already has that gets 304.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not request.token or not hmac.compare_digest(token, request.token):
        return _error(401, "a valid bearer token is required", {"WWW-Authenticate": "Bearer"})
    if request.method not in ("GET", "HEAD"):
        return _error(405, "only GET and HEAD", {"Allow": "GET, HEAD"})
    file = _TABLES.get("/".join(request.segments[1:]), "")
    recording = request.recordings.find("retail", file)
    if recording is None:
        return _error(404, f"there is no table {request.path}")
    headers = {"ETag": recording.etag}
    if request.headers.get("if-none-match") == recording.etag:
        return Response(304, headers=headers)
    texts = read(recording, _record_texts)
    try:
        number = whole_number(parameter(request, "page"), "page") or 1
        size = whole_number(parameter(request, "page_size"), "page_size") or 100
        pages = max(-(-len(texts) // size), 1)
        if size > _LARGEST_PAGE or number > pages:
            raise BadQueryError(f"page {number} of {pages}, {size} records each")
    except BadQueryError as error:
        return _error(400, f"bad request: {error}")
    data = ",".join(texts[(number - 1) * size : number * size])
    body = f'{{"data":[{data}],"total":{len(texts)},"page":{number},"pages":{pages}}}'
    return Response(200, body.encode(), "application/json", headers)


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(status, json.dumps({"error": message}).encode(), "application/json", headers or {})


def _record_texts(content: bytes) -> list[str]:
    return [json.dumps(row, ensure_ascii=False) for row in json.loads(content)]
