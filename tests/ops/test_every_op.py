"""Every catalogue row, in every spelling, on every engine, between integer neighbours; and in shapes of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from check_operator import ENGINES, check_operator
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from op_spellings import Spelling, spellings, tensors_of

from fxquant.ops import catalogue
from fxquant.ops.opdef import Example, OpDef, Query


def _cases() -> Iterator[Any]:
    for row in catalogue.all_rows():
        for number, example in enumerate(row.examples):
            for spelling in spellings(row, example):
                title = f"{row.name}-{number}-{spelling.title}".replace(" ", "-")
                yield pytest.param(row, example, spelling, id=title)


def _canonical_cases() -> Iterator[Any]:
    for row in catalogue.all_rows():
        for number, example in enumerate(row.examples):
            yield pytest.param(row, example, next(spellings(row, example)), id=f"{row.name}-{number}")


@pytest.mark.parametrize(("row", "example", "spelling"), list(_cases()))
def test_every_spelling(row: OpDef, example: Example, spelling: Spelling) -> None:
    """Capture is exact, the plan is the row's, and each unit agrees with the reference."""
    check_operator(row, example, spelling, ENGINES[0], frozenset())


@pytest.mark.parametrize("engine", ENGINES[1:])
@pytest.mark.parametrize(("row", "example", "spelling"), list(_canonical_cases()))
def test_every_engine(row: OpDef, example: Example, spelling: Spelling, engine: str) -> None:
    """The same on the other engines, set as torch's current engine too: unpacked kernels read that."""
    previous = torch.backends.quantized.engine
    torch.backends.quantized.engine = engine
    try:
        check_operator(row, example, spelling, engine, frozenset())
    finally:
        torch.backends.quantized.engine = previous


_EXAMPLES = {
    f"{row.name}-{index}": (row, example) for row in catalogue.all_rows() for index, example in enumerate(row.examples)
}
_NEVER_AN_ISLAND = frozenset(("int8", "step", "free"))


@given(st.sampled_from(sorted(_EXAMPLES)), st.sampled_from(ENGINES), st.integers(1, 5), st.integers(0, 4))
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_shapes(title: str, engine: str, batch: int, growth: int) -> None:
    """Other batches and sizes, where eager takes them with the example's arguments: right, and never a float island."""
    row, example = _EXAMPLES[title]
    drawn = replace(example, shapes=tuple(_grown(shape, batch, growth) for shape in example.shapes))
    spelling = _accepted_by_eager(row, drawn)
    assume(spelling is not None)
    assert spelling is not None
    check_operator(row, drawn, spelling, engine, _NEVER_AN_ISLAND)


def _grown(shape: tuple[int, ...], batch: int, growth: int) -> tuple[int, ...]:
    """The shape with another batch and larger images; sizes of 1, which broadcast, stay."""
    sizes = (batch if shape[0] > 1 else 1, *shape[1:2], *(size + growth if size > 1 else 1 for size in shape[2:]))
    return sizes[: len(shape)]


def _accepted_by_eager(row: OpDef, example: Example) -> Spelling | None:
    """The first spelling, None where the example's weights or arguments do not fit its shapes."""
    try:
        spelling = next(iter(spellings(row, example)), None)
        if spelling is not None:
            spelling.call(spelling.module, *tensors_of(example))
    except (TypeError, ValueError, RuntimeError, IndexError):
        return None
    return spelling


def test_every_row_with_activations_has_an_example() -> None:
    """A row without an example is a row without a test. Questions about sizes, and masks, are tested in models."""
    rows = [row for row in catalogue.all_rows() if not row.examples and not isinstance(row.output, Query)]
    assert [row.name for row in rows if row.name not in _TESTED_ELSEWHERE] == []


_TESTED_ELSEWHERE = frozenset(
    [
        "embedding",
        "set_item",
        "attention_softmax",
        "einsum",
        "lstm",
        "gru",
        "rnn",
        "lstmcell",
        "grucell",
        "rnncell",
        "embedding_bag",
        "bitwise_not",
        "bitwise_and",
        "bitwise_or",
        "bitwise_xor",
    ]
)
