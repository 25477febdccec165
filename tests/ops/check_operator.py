"""One operator between layers that run int8: captured exactly, planned as stated, and right."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from between import DECOMPOSED, DOMAINS, WRITTEN_AS, Between, items_of
from op_spellings import Spelling, tensors_of
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


def _same(actual: Any, expected: Any, exact: bool = True) -> bool:
    pairs = list(zip(items_of(actual), items_of(expected), strict=True))
    equal = torch.equal if exact else lambda a, e: bool((a - e).norm() <= 1e-6 * e.norm())
    return all(a.dtype == e.dtype and equal(a, e) for a, e in pairs)


def check_operator(row: OpDef, example: Example, spelling: Spelling, engine: str, expected: frozenset[str]) -> None:
    """Quantize one call between integer neighbours; assert that it is captured exactly, planned and computed right.

    Args:
        row, example, spelling: the call.
        engine: to quantize for.
        expected: outcomes that its node may have; empty for those that the catalogue states.
    """
    model = Between(spelling, example, DOMAINS.get(row.name)).eval()
    inputs = tensors_of(example, torch.Generator().manual_seed(2))
    given = [tensor.clone() for tensor in inputs]
    with torch.no_grad():
        eager = model(*inputs)
        observed, reference, quantized = _convert(model, inputs, engine)
        assert _same(observed(*inputs), eager, row.name not in DECOMPOSED), "the captured model computes something else"
        assert _same(inputs, given), "an input was changed"
        _check_outcome(row, example, quantized, expected)
        for batch in (inputs, *_other_batches(model, inputs)):
            agreement = check_agreement(reference, quantized, *batch)
            assert not agreement.violations, f"\n{agreement}"
        for mine, theirs in zip(items_of(quantized(*inputs)), items_of(eager), strict=True):
            if theirs.is_floating_point() and theirs.dim() and not _jumps(row, example):
                assert sqnr_db(theirs, mine) >= SQNR_FLOOR_DB


def _jumps(row: OpDef, example: Example) -> bool:
    return row.name in _JUMPING or example.kwargs.get("rounding_mode") is not None


def _check_outcome(row: OpDef, example: Example, quantized: QuantizedModel, expected: frozenset[str]) -> None:
    names = {row.name, {**WRITTEN_AS, **DECOMPOSED}.get(row.name, row.name)}
    nodes = [record for record in quantized.state.captured if record.info.op in names]
    assert nodes, f"no captured node is a {row.name}"
    for record in nodes:
        unit = quantized.plan.unit_of(record.name)
        captured = catalogue.by_name(record.info.op)
        assert captured is not None
        allowed = expected or {example.outcome or _expected(captured)}
        assert unit.outcome in allowed, f"{record.name}: {unit.outcome}, {unit.reason}"


def _other_batches(model: nn.Module, inputs: list[Tensor]) -> Iterator[list[Tensor]]:
    """A batch of three and an empty one, where eager takes them."""
    for size in (3, 0):
        batch = [_resized(tensor, size) for tensor in inputs]
        try:
            model(*batch)
        except (RuntimeError, ValueError, IndexError, UserWarning):  # what eager refuses, or warns of
            continue
        yield batch


def _resized(tensor: Tensor, size: int) -> Tensor:
    """The first ``size`` entries of a repeated batch; a broadcast dimension of 1 stays 1."""
    return tensor if tensor.shape[0] == 1 else torch.cat([tensor, tensor.flip(-1)])[:size]


def _expected(row: OpDef) -> str:
    """Outcome of a row between integer neighbours."""
    if row.name == "batch_norm":  # the convolution before it takes it in
        return "int8"
    if isinstance(row.output, (Moves, Identity, Query)):
        return "free"
    return "step" if isinstance(row.output, FloatOnly) else "int8"
