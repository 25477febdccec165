"""Arithmetic as people write it: Python's operators on either side, parameters, masks, expressions."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant.inspect.agreement import check_agreement
from fxquant.ir.stages import QuantizedModel
from fxquant.numerics.sqnr import sqnr_db

Function = Callable[["Written", Tensor, Tensor], Tensor]
# Three roundings to 8 bits, as for every operator.
SQNR_FLOOR_DB = 24.0


class Written(nn.Module):
    """Two convolutions, a function of their results, and a convolution.

    ``near`` lies in 0.5..1.5, for operators that want values away from zero.
    """

    def __init__(self, function: Function) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.last = nn.LazyConv2d(4, 1)
        self.function = function
        self.number = nn.Parameter(torch.tensor(0.3))
        self.channels = nn.Parameter(torch.tensor([0.5, -0.25, 2.0, 1.5]).reshape(4, 1, 1))
        self.register_buffer("map", torch.linspace(-1.0, 1.0, 30).reshape(6, 5))
        self.register_buffer("causal", torch.full((6, 5), -math.inf).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.last(self.function(self, self.first(x), self.second(x)))
        return made


def _near(x: Tensor) -> Tensor:
    return torch.clamp(x, -0.5, 0.5) + 1.0


def _convert(function: Function, engine: str = "x86", floor: float = SQNR_FLOOR_DB) -> QuantizedModel:
    """Convert and check against eager and the reference, on another batch size too."""
    model, x = Written(function).eval(), torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        eager = model(x)
        observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping(engine), (x,))
        assert torch.equal(observed(x), eager)
        reference, quantized = fxquant.convert_to_reference_fx(observed), fxquant.convert_fx(observed)
        for batch in (x, torch.cat((x, -x))[:3]):
            agreement = check_agreement(reference, quantized, batch)
            assert not agreement.violations, f"\n{agreement}"
        assert sqnr_db(eager, quantized(x)) >= floor
    return quantized


def _kernels(quantized: QuantizedModel) -> list[str]:
    """Kernels between the convolutions, in order; steps and floats as ``outcome: reason``."""
    units = [unit for unit in quantized.plan.units if unit.op != "conv2d" and unit.outcome != "free"]
    return [str(unit.kernel) if unit.outcome == "int8" else f"{unit.outcome}: {unit.reason}" for unit in units]


TABLE, CHANNELS, PAIRS, CHOICE = "table of 256", "table of 256 a channel", "table of 65,536", "choice on integers"
WRITTEN: dict[str, tuple[Function, list[str]]] = {
    # Python's operators
    "1 - x": (lambda m, x, y: 1 - x, [TABLE]),
    "2 / x": (lambda m, x, y: 2.0 / _near(x), [TABLE]),
    "2 ** x": (lambda m, x, y: 2**x, [TABLE]),
    "x ** 3": (lambda m, x, y: x**3, [TABLE]),
    "x ** y": (lambda m, x, y: _near(x) ** y, [TABLE, PAIRS]),
    "-x": (lambda m, x, y: -x, [TABLE]),
    "+x": (lambda m, x, y: +x + y, [TABLE, "quantized.add"]),
    "abs(x)": (lambda m, x, y: abs(x), [TABLE]),
    "sum of list": (lambda m, x, y: sum([x, y]), [TABLE, "quantized.add"]),
    "x * x": (lambda m, x, y: x * x, [TABLE]),
    "True * x": (lambda m, x, y: True * x, [TABLE]),
    "x * 1e6": (lambda m, x, y: x * 1e6, [TABLE]),
    "x / x.max()": (lambda m, x, y: x / x.max(), ["aten.max on integers", PAIRS]),
    # parameters and buffers
    "p - x": (lambda m, x, y: m.number - x, [TABLE]),
    "x * p": (lambda m, x, y: x * m.number, [TABLE]),
    "channels / x": (lambda m, x, y: m.channels / _near(x), [CHANNELS]),
    "x * channels": (lambda m, x, y: x * m.channels, ["quantized.mul"]),
    "map - x": (lambda m, x, y: m.map - x, ["quantized.sub"]),
    "map / x": (lambda m, x, y: m.map / _near(x), [TABLE, PAIRS]),
    "x.maximum(map)": (lambda m, x, y: torch.maximum(m.map, x), [PAIRS]),
    "affine": (lambda m, x, y: x * m.channels + m.number, [CHANNELS]),
    # choosing
    "max(x, y)": (lambda m, x, y: torch.max(x, y), [CHOICE]),
    "max(x, other=y)": (lambda m, x, y: torch.min(x, other=y), [CHOICE]),
    "x.max(y)": (lambda m, x, y: x.max(y), [CHOICE]),
    "values": (lambda m, x, y: torch.max(x, 1, keepdim=True).values + y, ["aten.max on integers", "quantized.add"]),
    "axis": (lambda m, x, y: x.amin(axis=1, keepdims=True) + y, ["aten.amin on integers", "quantized.add"]),
    "where method": (lambda m, x, y: x.where(x > y, y), [CHOICE]),
    "where 0": (lambda m, x, y: torch.where(x > y, x, 0), [CHOICE]),
    "where sigmoid": (lambda m, x, y: torch.where(x > y, torch.sigmoid(x), y), [TABLE, CHOICE]),
    "masked_fill": (lambda m, x, y: x.masked_fill(m.map > 0.2, 7.0), [CHOICE]),
    "mask": (lambda m, x, y: x * (y.argmax(1, keepdim=True) < 9), [CHOICE]),
    "mask buffer": (lambda m, x, y: (m.map > 0) * x, [CHOICE]),
    "mask of channels": (lambda m, x, y: x * (m.channels > 0), [CHOICE]),
    # single numbers that are computed
    "x + x.mean()": (lambda m, x, y: x + y.mean(), ["integer sums", "quantized.add"]),
    "x.sum() * x": (lambda m, x, y: y.sum() * x, ["integer sums", "quantized.mul"]),
    "x.max() - x": (lambda m, x, y: y.max() - x, ["aten.max on integers", "quantized.sub"]),
    "x.max() / x": (lambda m, x, y: y.max() / _near(x), ["aten.max on integers", TABLE, PAIRS]),
    # expressions
    "swish": (lambda m, x, y: x * torch.sigmoid(x), [TABLE]),
    "hard swish": (lambda m, x, y: x * F.relu6(x + 3) / 6, [TABLE]),
    "leaky": (lambda m, x, y: torch.where(x > 0, x, 0.1 * x), [TABLE]),
    "mask of itself": (lambda m, x, y: x * (x > 0.1), [TABLE]),
    "logic": (lambda m, x, y: torch.where((x > 0) & ~(x > 1) | (x < -1) ^ (x < -2), x, 0.95 * x), [TABLE]),
    "prelu": (lambda m, x, y: F.prelu(x, m.channels.reshape(4)), [CHANNELS]),
    "softmax2d": (
        lambda m, x, y: nn.Softmax2d()(x),
        ["step: no integer sums of exponentials in native; computed in float, stored int8"],
    ),
}


@pytest.mark.parametrize("title", WRITTEN)
def test_written(title: str) -> None:
    """Every unit agrees with the reference, and runs in the kernel that is named here."""
    function, kernels = WRITTEN[title]
    assert _kernels(_convert(function)) == kernels


def test_expression_members_are_explained() -> None:
    """What is inside an expression says so."""
    explained = str(fxquant.explain(_convert(lambda m, x, y: x * torch.sigmoid(x))))
    assert "computed by the table of mul [fuse_expressions]" in explained


def test_parts_of_other_configuration_are_not_fused() -> None:
    """A part that the configuration keeps float stays float."""
    model, x = Written(lambda m, x, y: x * torch.sigmoid(x)).eval(), torch.randn(2, 3, 6, 5)
    model(x)
    mapping = fxquant.get_default_qconfig_mapping("x86").set_object_type(torch.sigmoid, None)
    observed = fxquant.prepare_fx(model, mapping, (x,))
    observed(x)
    units = {unit.op: unit.outcome for unit in fxquant.convert_fx(observed).plan.units}
    assert units["sigmoid"] in ("float", "step") and units["mul"] == "int8"


MASKS: dict[str, Function] = {
    "masked_fill -inf": lambda m, x, y: F.softmax(x.masked_fill(m.causal < 0, -math.inf), -1),
    "masked_fill -1e9": lambda m, x, y: F.softmax(x.masked_fill(m.causal < 0, -1e9) / 2.0, -1),
    "where finfo": lambda m, x, y: F.softmax(torch.where(m.causal < 0, torch.finfo(x.dtype).min, x), -1),
    "added buffer": lambda m, x, y: F.softmax(x + m.causal, -1),
    "added to both": lambda m, x, y: F.softmax((x + m.causal).flatten(2).unflatten(2, (6, 5)), -1) * y,
}


@pytest.mark.parametrize("title", MASKS)
def test_masks_do_not_widen_ranges(title: str) -> None:
    """Values of -inf or -1e9 stay float up to the softmax, with a reason; the scores keep their accuracy."""
    quantized = _convert(MASKS[title])
    reasons = [kernel for kernel in _kernels(quantized) if kernel.startswith(("step", "float"))]
    assert reasons and all(
        "too far apart" in why or "not all finite" in why or "exponentials" in why for why in reasons
    )


def test_random_slopes_stay_float() -> None:
    """rrelu in training mode draws its slopes."""
    model, x = nn.Sequential(nn.Conv2d(3, 4, 1), nn.RReLU(), nn.Conv2d(4, 4, 1)).eval(), torch.randn(2, 3, 6, 5)
    model[1].train()
    observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping("x86"), (x,))
    observed(x)
    unit = next(unit for unit in fxquant.convert_fx(observed).plan.units if unit.op == "rrelu")
    assert unit.outcome == "step" and "random" in unit.reason


SHARED: dict[str, Function] = {
    "maximum": lambda m, x, y: torch.maximum(x, y),
    "minimum": lambda m, x, y: torch.min(x, y),
    "where": lambda m, x, y: torch.where(x > y, x, y),
    "masked_fill": lambda m, x, y: x.masked_fill(y > x, 0.0),
    "amax": lambda m, x, y: x.amax(1, keepdim=True) + y,
}


@pytest.mark.parametrize("op", SHARED)
def test_choices_share_one_range(op: str) -> None:
    """What chooses among numbers has the scale and zero point of all that it chooses from."""
    unit = next(unit for unit in _convert(SHARED[op], floor=0.0).plan.units if unit.op == op)
    assert {edge.range_class for edge in unit.inputs} == {unit.output}


def test_constants_outside_the_range_widen_it() -> None:
    """Numbers other than zero that are chosen get a range of their own, which holds them."""
    quantized = _convert(lambda m, x, y: x.masked_fill(m.map > 0, 50.0))
    unit = next(unit for unit in quantized.plan.units if unit.op == "masked_fill")
    assert unit.inputs[0].range_class != unit.output


def test_positions_of_maxima() -> None:
    """Both results of a maximum over a dimension are read; positions are those of the largest integers."""

    def function(m: Written, x: Tensor, y: Tensor) -> Tensor:
        values, positions = x.max(dim=1, keepdim=True)
        return values + torch.gather(y, 1, positions)

    assert _kernels(_convert(function))[0] == "aten.max on integers"
