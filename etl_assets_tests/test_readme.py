"""The README's promises that can be kept by running them."""

from __future__ import annotations

import csv
import importlib
import io
import json
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from etl_assets.definitions import definitions
from etl_assets.local.routes import Request, Response
from etl_assets.local.source_server import serve
from etl_assets.stages.dataset import SPECS
from etl_assets_tests.house import House

README = Path(__file__).parents[1] / "README.md"
OPERATIONS = README.parent / "docs" / "operations.md"


@pytest.fixture
def example() -> Iterator[types.ModuleType]:
    """The README's dataset as a module, registered for the test's time only."""
    yield from loaded(blocks()[0])


@pytest.fixture
def paged_example() -> Iterator[types.ModuleType]:
    """The same, with what the README says of a paged API in place of its file."""
    file, api = blocks()
    lands = file.index("landing_libraries = "), file.index("@refined(")
    yield from loaded(file[: lands[0]] + api + "\n\n" + file[lands[1] :])


def blocks() -> list[str]:
    """The README's Python."""
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def loaded(code: str) -> Iterator[types.ModuleType]:
    """Python as a module; the datasets in it are the only ones."""
    before = dict(SPECS)
    SPECS.clear()
    module = types.ModuleType("libraries")
    try:
        exec(compile(code, "README.md", "exec", dont_inherit=True), module.__dict__)
        yield module
    finally:
        SPECS.clear()
        SPECS.update(before)


def test_the_dataset_of_the_readme_works(house: House, example: types.ModuleType) -> None:
    house.write("libraries", "2025-01-01", "libraries.csv", LIBRARIES)
    check(house, example)


def test_a_changed_dataset_is_made_again_by_itself(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was kept out leaves quarantine when the contract lets it; a comment changes nothing."""
    house.write("libraries", "2025-01-01", "libraries.csv", LIBRARIES)
    (code, _), file = blocks(), tmp_path / "libraries.py"
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    house.datasets = ()

    def run(text: str) -> dict[str, int]:
        monkeypatch.delitem(sys.modules, "libraries", raising=False)
        file.write_text(text)
        before = dict(SPECS)
        SPECS.clear()
        try:
            house.definitions = definitions([importlib.import_module("libraries")])
            assert house.run(), house.failures()
            return house.made()
        finally:
            SPECS.clear()
            SPECS.update(before)

    assert len(run(code)) == 4
    assert run(code.replace("class Libraries(", "# A comment.\n\n\nclass Libraries(")) == {}
    looser = code.replace(r"^[A-Z]{2}\d{4}$", r"^([A-Z]{2})?\d+$")
    assert looser != code
    assert run(looser)["presentation/libraries_by_state"] == 1
    assert house.sql("SELECT reason FROM quarantine.libraries") == [("readable: visits is many",)]
    assert house.frame("presentation.libraries_by_state").rows() == [("CA", 2, 120), ("NY", 2, 8)]
    assert run(looser) == {}


def test_the_paged_api_of_the_readme_works(
    house: House, paged_example: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Followed once for an API like the WHO's, in pages of two rows; there is nothing new the second time."""
    rows = list(csv.DictReader(io.StringIO(LIBRARIES.decode())))
    pages: list[int] = []

    def api(request: Request) -> Response:
        start = int(request.query.get("$skip", ["0"])[0])
        pages.append(start)
        page: dict[str, object] = {"@odata.count": len(rows), "value": rows[start : start + 2]}
        if start + 2 < len(rows):
            page["@odata.nextLink"] = f"http://elsewhere{request.path}?$skip={start + 2}&$count=true"
        return Response(200, json.dumps(page).encode(), "application/json")

    with serve(house.data, routes={"libraries": api}) as url:
        monkeypatch.setenv("ETL_LIBRARIES_URL", f"{url}/libraries")
        check(house, paged_example)
        assert sorted(pages) == [0, 0, 0, 0, 2, 4]  # a look, its version before and after, and three pages
        assert house.run()
        assert house.made() == {}


def check(house: House, example: types.ModuleType) -> None:
    """The tables, the quarantine and the comments are as the README says."""
    house.definitions, house.datasets = definitions([example]), ()
    assert house.run(), house.failures()
    assert house.frame("presentation.libraries_by_state").rows() == [("CA", 2, 120), ("NY", 1, 7)]
    assert house.sql("SELECT reason FROM quarantine.libraries") == [
        ("str_matches('^[A-Z]{2}\\d{4}$'): library_id is 17",),
        ("readable: visits is many",),
    ]
    comment = "SELECT col_description('refined.libraries'::regclass, 3)"
    assert house.value(comment) == "Visits in a year [visits]"
    assert isinstance(house.definitions, dg.Definitions)


def test_the_readme_names_commands_that_exist() -> None:
    from etl_assets.local.__main__ import COMMANDS

    pages = README.read_text() + OPERATIONS.read_text()
    named = set(re.findall(r"\./dev ([a-z][a-z-]*)", pages))
    assert named <= {*COMMANDS, "test", "audit", "bench", "chaos", "fuzz", "lock"}


def test_every_alert_has_its_paragraph() -> None:
    from etl_assets.automation.problems import _CHECK_ADVICE

    kinds = ["quarantine above its bound", "stale", "a run failed", "the tick fails"]
    for kind in (*kinds, *(f"the check {name} fails" for name in _CHECK_ADVICE)):
        assert f"**{kind}.**" in OPERATIONS.read_text(), kind


LIBRARIES = b"""ID,STATE,VISITS
CA0001,CA,100
CA0002,CA,20
CA0002,CA,20
NY0001,NY,7
17,NY,1
NY0002,NY,many
"""
