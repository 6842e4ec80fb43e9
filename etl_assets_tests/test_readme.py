"""The README's promises that can be kept by running them."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from etl_assets.definitions import definitions
from etl_assets.stages.dataset import SPECS
from etl_assets_tests.house import House

README = Path(__file__).parents[1] / "README.md"
OPERATIONS = README.parent / "docs" / "operations.md"


@pytest.fixture
def example() -> Iterator[types.ModuleType]:
    """The README's dataset as a module, registered for the test's time only."""
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
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
    assert named <= {*COMMANDS, "test", "audit", "bench", "lock"}


def test_every_alert_has_its_paragraph() -> None:
    from etl_assets.automation.alerts import _CHECK_ADVICE

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
