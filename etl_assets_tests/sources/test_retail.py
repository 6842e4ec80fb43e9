"""A page of the retail company's API says where it stands, and is refused where that is not what was asked for."""

from __future__ import annotations

import pytest

from etl_assets.settings import NotConfiguredError
from etl_assets.sources import SourceRefusedError
from etl_assets.sources.paging import Call
from etl_assets.sources.retail import RetailApi

SOURCE, SECOND = RetailApi(path="customers"), Call("http://retail.example/customers", {"page": "2", "page_size": "1"})


def test_pages_and_plain_arrays() -> None:
    page = SOURCE.read(SECOND, b'{"data": [{"Customer_ID": 2}], "total": 3, "page": 2, "pages": 3}')
    assert (page.rows, page.total) == ([{"Customer_ID": 2}], 3)
    assert page.following == Call(SECOND.url, {"page": "3", "page_size": "1"})
    assert SOURCE.read(SECOND, b'{"data": [{}], "total": 2, "page": 2, "pages": 2}').following is None
    assert SOURCE.read(SECOND, b'[{"Customer_ID": 1}, {"Customer_ID": 2}]').rows == [
        {"Customer_ID": 1},
        {"Customer_ID": 2},
    ]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "the answer is empty"),
        (b'{"data": [{"Customer_ID": 2}, {"Cust', "the answer is not complete JSON"),
        (b'{"rows": []}', "the envelope is malformed .KeyError: 'data'"),
        (b'"data"', "the envelope is malformed"),
        (
            b'{"data": [{}], "total": 3, "page": 1, "pages": 3}',
            "page 2 was asked for, but the envelope says page 1 of 3",
        ),
        (
            b'{"data": [{}], "total": 3, "page": 2, "pages": 1}',
            "page 2 was asked for, but the envelope says page 2 of 1",
        ),
        (b'{"data": [{}], "total": 3, "page": 2, "pages": "many"}', "the envelope is malformed"),
    ],
)
def test_what_is_no_such_page_is_refused(body: bytes, why: str) -> None:
    with pytest.raises(SourceRefusedError, match=why):
        SOURCE.read(SECOND, body)


def test_without_a_token_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETL_RETAIL_API_URL", "http://127.0.0.1:9/retail")
    with pytest.raises(NotConfiguredError, match="set ETL_RETAIL_TOKEN"):
        SOURCE.probe(None)
    monkeypatch.setenv("ETL_RETAIL_TOKEN", "token")
    monkeypatch.delenv("ETL_RETAIL_API_URL")
    monkeypatch.setenv("ETL_SOURCES", "live")
    with pytest.raises(NotConfiguredError, match="retail_api has no public address: set ETL_RETAIL_API_URL"):
        SOURCE.probe(None)
