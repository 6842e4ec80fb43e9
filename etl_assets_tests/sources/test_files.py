"""Where whole files come from: a path or nothing, and which of their versions is known."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from etl_assets.sources import SourceRefusedError, Validators, Workspace
from etl_assets.sources.files import OptionalFile


def test_an_optional_file(tmp_path: Path) -> None:
    """Unset it is a file without records; a path is asked for again only when its bytes are others."""
    path = tmp_path / "before.csv"
    unset = OptionalFile(lambda s: None, without=b"id\n", suffix=".txt")
    found = unset.fetch(Workspace(tmp_path), None)
    assert found is not None
    assert found.path.read_bytes() == b"id\n"

    named = OptionalFile(lambda s: str(path), without=b"id\n", suffix=".txt")
    with pytest.raises(SourceRefusedError, match=re.escape(f"{path} cannot be read: No such file")):
        named.fetch(Workspace(tmp_path), None)
    path.write_bytes(b"id\n1\n")
    found = named.fetch(Workspace(tmp_path), found.validators)
    assert found is not None
    assert found.path.read_bytes() == b"id\n1\n"
    assert named.probe(found.validators) is None
    assert named.fetch(Workspace(tmp_path), found.validators) is None
    path.write_bytes(b"id\n2\n")
    assert named.probe(found.validators) is not None


def test_validators_of_another_kind_of_source_do_no_harm(tmp_path: Path) -> None:
    """Such as those of an address, where a file is named now; where nothing is named, what was landed stays."""
    known = Validators('"etag"', "Thu, 01 Jan 1970 00:00:00 GMT")
    for location, is_other in ((lambda s: "none", True), (lambda s: None, False)):
        file = OptionalFile(location, without=b"id\n", suffix=".txt")
        assert (file.probe(known) is not None) == is_other
        assert (file.fetch(Workspace(tmp_path), known) is not None) == is_other
