"""Causes come before what passes them on, and nothing else moves."""

from __future__ import annotations

from fxquant.inspect.causes_first import causes_first

_READS = {"prelu": "conv", "next": "prelu", "far": "conv"}


def _order(levels: dict[str, float], widths: dict[str, float] | None = None, harmful_below: float = 30.0) -> list[str]:
    found = causes_first(
        list(levels),
        level=lambda name: levels[name],
        reads=lambda name, other: _READS.get(name) == other,
        width=lambda name: (widths or {}).get(name, 1.0),
        harmful_below=harmful_below,
    )
    return list(found)


def test_what_is_read_comes_first_where_it_is_about_as_bad() -> None:
    assert _order({"prelu": 5.0, "conv": 5.5, "next": 40.0}) == ["conv", "prelu", "next"]
    assert _order({"prelu": 5.0, "conv": 9.0}, {"prelu": 8.0}) == ["conv", "prelu"]
    assert _order({"next": 5.0, "prelu": 5.2, "conv": 5.9}) == ["conv", "prelu", "next"]


def test_a_reader_that_is_much_worse_is_the_cause_itself() -> None:
    assert _order({"prelu": 5.0, "conv": 35.0}, {"prelu": 8.0}) == ["prelu", "conv"]


def test_layers_without_relation_stay_sorted() -> None:
    assert _order({"next": 5.0, "conv": 5.5}) == ["next", "conv"]


def test_harmless_layers_stay_sorted() -> None:
    assert _order({"prelu": 41.0, "conv": 41.5}) == ["prelu", "conv"]
    assert _order({}) == []
