"""Every catalogue row, in every spelling, on every engine, between integer neighbours."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from between import DECOMPOSED, DOMAINS, WRITTEN_AS, Between, items_of
from op_spellings import Spelling, spellings, tensors_of
from torch import Tensor, nn

import fxquant
from fxquant import pipeline
from fxquant.inspect.agreement import check_agreement
from fxquant.ir.stages import ObservedModel, QuantizedModel, ReferenceModel
from fxquant.numerics.sqnr import sqnr_db
from fxquant.ops import catalogue
from fxquant.ops.opdef import Example, FloatOnly, Identity, Moves, OpDef, Query

ENGINES = [
    name for name in ("x86", "fbgemm", "onednn", "qnnpack") if name in torch.backends.quantized.supported_engines
]
# Three roundings to 8 bits of values that fill their range: about 8 dB below the 43 dB of one.
SQNR_FLOOR_DB = 24.0
# Operators that jump: a rounded input may lie on the other side, so that the result as a whole says little.
_JUMPING = frozenset(
    ("threshold", "sign", "sgn", "round", "floor", "ceil", "trunc", "frac", "floor_divide", "remainder", "fmod")
)


def _convert(
    model: nn.Module, inputs: list[Tensor], engine: str
) -> tuple[ObservedModel, ReferenceModel, QuantizedModel]:
    observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping(engine), tuple(inputs))
    observed(*inputs)
    reference = fxquant.convert_to_reference_fx(observed)
    return observed, reference, pipeline.lower(reference)


def _expected(row: OpDef) -> str:
    """Outcome of a row between integer neighbours."""
    if row.name == "batch_norm":  # the convolution before it takes it in
        return "int8"
    if isinstance(row.output, (Moves, Identity, Query)):
        return "free"
    return "step" if isinstance(row.output, FloatOnly) else "int8"


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


def _same(actual: Any, expected: Any, exact: bool = True) -> bool:
    pairs = list(zip(items_of(actual), items_of(expected), strict=True))
    equal = torch.equal if exact else lambda a, e: bool((a - e).norm() <= 1e-6 * e.norm())
    return all(a.dtype == e.dtype and equal(a, e) for a, e in pairs)


def _check(row: OpDef, example: Example, spelling: Spelling, engine: str) -> None:
    model = Between(spelling, example, DOMAINS.get(row.name)).eval()
    inputs = tensors_of(example, torch.Generator().manual_seed(2))
    given = [tensor.clone() for tensor in inputs]
    with torch.no_grad():
        eager = model(*inputs)
        observed, reference, quantized = _convert(model, inputs, engine)
        assert _same(observed(*inputs), eager, row.name not in DECOMPOSED), "the captured model computes something else"
        assert _same(inputs, given), "an input was changed"
        _check_outcome(row, example, quantized)
        for batch in (inputs, *_other_batches(model, inputs, _smallest(row, engine))):
            agreement = check_agreement(reference, quantized, *batch)
            assert not agreement.violations, f"\n{agreement}"
        for mine, theirs in zip(items_of(quantized(*inputs)), items_of(eager), strict=True):
            if theirs.is_floating_point() and theirs.dim() and not _jumps(row, example):
                assert sqnr_db(theirs, mine) >= SQNR_FLOOR_DB


def _jumps(row: OpDef, example: Example) -> bool:
    return row.name in _JUMPING or example.kwargs.get("rounding_mode") is not None


def _check_outcome(row: OpDef, example: Example, quantized: QuantizedModel) -> None:
    names = {row.name, {**WRITTEN_AS, **DECOMPOSED}.get(row.name, row.name)}
    nodes = [record for record in quantized.state.captured if record.info.op in names]
    assert nodes, f"no captured node is a {row.name}"
    for record in nodes:
        unit = quantized.plan.unit_of(record.name)
        captured = catalogue.by_name(record.info.op)
        assert captured is not None
        expected = example.outcome or _expected(captured)
        assert unit.outcome == expected, f"{record.name}: {unit.outcome}, {unit.reason}"


def _smallest(row: OpDef, engine: str) -> int:
    """Empty batches kill the process in two kernels of qnnpack; a test of their own runs them in another one."""
    return 1 if engine == "qnnpack" and row.name in ("hardswish", "hardsigmoid") else 0


def _other_batches(model: nn.Module, inputs: list[Tensor], smallest: int) -> Iterator[list[Tensor]]:
    """A batch of three and a small one, where eager takes them."""
    for size in (3, smallest):
        batch = [_resized(tensor, size) for tensor in inputs]
        try:
            model(*batch)
        except (RuntimeError, ValueError, IndexError):
            continue
        yield batch


def _resized(tensor: Tensor, size: int) -> Tensor:
    """The first ``size`` entries of a repeated batch; a broadcast dimension of 1 stays 1."""
    return tensor if tensor.shape[0] == 1 else torch.cat([tensor, tensor.flip(-1)])[:size]


@pytest.mark.parametrize(("row", "example", "spelling"), list(_cases()))
def test_every_spelling(row: OpDef, example: Example, spelling: Spelling) -> None:
    """Capture is exact, the plan is the row's, and each unit agrees with the reference."""
    _check(row, example, spelling, ENGINES[0])


@pytest.mark.parametrize("engine", ENGINES[1:])
@pytest.mark.parametrize(("row", "example", "spelling"), list(_canonical_cases()))
def test_every_engine(row: OpDef, example: Example, spelling: Spelling, engine: str) -> None:
    """The same on the other engines, set as torch's current engine too: unpacked kernels read that."""
    previous = torch.backends.quantized.engine
    torch.backends.quantized.engine = engine
    try:
        _check(row, example, spelling, engine)
    finally:
        torch.backends.quantized.engine = previous


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
        "embedding_bag",
        "bitwise_not",
        "bitwise_and",
        "bitwise_or",
        "bitwise_xor",
    ]
)


@pytest.mark.skipif("qnnpack" not in ENGINES, reason="this build of torch has no qnnpack")
@pytest.mark.parametrize("name", ["Hardswish", "Hardsigmoid"])
def test_empty_batch_while_qnnpack_is_current(name: str) -> None:
    """qnnpack divides by the batch in these kernels, which ends the process; so this runs in another one."""
    lines = (
        "import torch, fxquant",
        f"model = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), torch.nn.{name}(), torch.nn.Conv2d(3, 3, 1)).eval()",
        "torch.backends.quantized.engine = 'qnnpack'",
        "quantized = fxquant.quantize(model, [torch.randn(2, 3, 6, 6)], backend='qnnpack', progress=False)",
        "assert quantized(torch.zeros(0, 3, 6, 6)).shape == (0, 3, 6, 6)",
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-400:]
