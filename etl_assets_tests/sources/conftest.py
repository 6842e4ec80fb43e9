"""Fixtures of the tests of sources."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from etl_assets.local.apis import gho
from etl_assets.local.source_server import ROUTES, serve
from etl_assets_tests.faults import Faults
from etl_assets_tests.sources.api import (
    GHO_PAGE,
    Api,
)


@pytest.fixture
def api(sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """The APIs as of 2024-10-01, one indicator in twenty pages."""
    monkeypatch.setenv("ETL_HTTP_RETRY_WAIT", "0")
    monkeypatch.setenv("ETL_HTTP_ATTEMPTS", "2")
    as_of, faults = tmp_path / "as_of", Faults()
    as_of.write_text("2024-10-01")
    with serve(sample, as_of=as_of, handler=faults.handler(), routes={**ROUTES, "who_gho": gho(GHO_PAGE)}) as url:
        monkeypatch.setenv("ETL_LOCAL_SOURCES_URL", url)
        yield Api(url, sample, as_of, tmp_path, faults)
