"""The codes of the states, by what is known of them without another list: a wrong one quarantines a whole state."""

from __future__ import annotations

from etl_assets.quality.states import CODES, FIPS

TERRITORIES = {"AS": "60", "GU": "66", "MP": "69", "PR": "72", "VI": "78"}


def test_fips_codes_are_numbered_as_the_names_are_sorted() -> None:
    """ANSI did so, and never used five of the numbers."""
    states = {name: FIPS[code] for name, code in CODES.items() if code not in TERRITORIES}
    assert {code: FIPS[code] for code in TERRITORIES} == TERRITORIES
    assert [states[name] for name in sorted(states)] == [f"{n:02}" for n in range(1, 57) if n not in (3, 7, 14, 43, 52)]


def test_postal_codes_are_of_the_letters_of_their_names() -> None:
    """The first letter is the name's first, the second one of the others; no two states have the same."""
    assert len(FIPS) == len(CODES) == 51 + len(TERRITORIES)
    for name, code in CODES.items():
        if code != "MP":  # of the Mariana Islands in the Pacific
            assert code[0] == name[0], name
            assert code[1] in name[1:].upper(), name
