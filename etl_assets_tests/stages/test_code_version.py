"""By what code an asset is made: its dataset's file, and those beside it that this one imports from."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from etl_assets.stages.dataset import code_version

NAMED = "from room.shared import FACTOR\n\n\nclass Made:\n    factor = FACTOR\n"
WHOLE = "from room import shared\n\n\nclass Made:\n    factor = shared.FACTOR\n"


def version(folder: Path, monkeypatch: pytest.MonkeyPatch, **files: str) -> str:
    """The version of `Made`, with these files in its room."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "room"]:
        del sys.modules[name]
    monkeypatch.syspath_prepend(str(folder))
    for name, text in {"__init__": "", **files}.items():
        path = folder / "room" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    importlib.invalidate_caches()
    return code_version(importlib.import_module("room.user").Made)


@pytest.mark.parametrize("user", [NAMED, WHOLE])
def test_the_version_is_another_when_the_code_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: str) -> None:
    first = version(tmp_path / "1", monkeypatch, user=user, shared="FACTOR = 2\n", other="FACTOR = 2\n")
    assert first
    same = version(tmp_path / "2", monkeypatch, user=user, shared="# Twice\nFACTOR = 2\n", other="FACTOR = 3\n")
    assert same == first, "neither comments count, nor a file that it does not import"
    assert version(tmp_path / "3", monkeypatch, user=user, shared="FACTOR = 3\n") != first
    assert version(tmp_path / "4", monkeypatch, user=f"{user}    more = 1\n", shared="FACTOR = 2\n") != first


def test_what_stands_in_no_file_has_none() -> None:
    assert code_version(type("Made", (), {"__module__": "nowhere"})) == ""
