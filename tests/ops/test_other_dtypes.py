"""The spellings of every operator on numbers that are not float32: capture keeps the dtype and the values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from between import items_of
from op_spellings import Spelling, spellings, tensors_of
from torch import Tensor, nn

from fxquant import pipeline
from fxquant.ops import catalogue
from fxquant.ops.opdef import Example, OpDef

DTYPES = (torch.int64, torch.bfloat16)


class Only(nn.Module):
    """One operator, as it is spelled."""

    def __init__(self, spelling: Spelling) -> None:
        super().__init__()
        self.held, self.call = spelling.module, spelling.call

    def forward(self, *tensors: Tensor) -> Any:
        """Call it."""
        return self.call(self.held, *tensors)


def _rows() -> list[Any]:
    return [pytest.param(row, id=row.name) for row in catalogue.all_rows() if row.examples]


def _inputs(example: Example, dtype: torch.dtype) -> tuple[Tensor, ...]:
    drawn = tensors_of(example, torch.Generator().manual_seed(2))
    return tuple((item * 3).to(dtype) for item in drawn)


def _run(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Any]:
    torch.manual_seed(0)
    with torch.no_grad():
        return list(items_of(model(*(item.clone() for item in inputs))))


@pytest.mark.parametrize("row", _rows())
def test_dtypes_and_values_are_those_of_eager(row: OpDef) -> None:
    written = [item for item in spellings(row, row.examples[0]) if not item.title.endswith("positional")]
    for spelling in written:
        for dtype in DTYPES:
            model, inputs = Only(spelling).eval(), _inputs(row.examples[0], dtype)
            try:
                expected = _run(model, inputs)
            except Exception:  # many take floats only
                continue
            captured = pipeline.capture(model, tuple(item.clone() for item in inputs))
            for found, wanted in zip(_run(captured, inputs), expected, strict=True):
                assert type(found) is type(wanted), (spelling.title, dtype)
                if isinstance(wanted, Tensor):
                    assert found.dtype == wanted.dtype, (spelling.title, dtype)
                    assert torch.equal(found.double().nan_to_num(), wanted.double().nan_to_num())
