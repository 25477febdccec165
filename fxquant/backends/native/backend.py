"""The native backend: which kernel runs a call, on which engine, and what it demands of the weights.

Source of the choices: measurements on CPUs with and without VNNI, see ``benchmarks/kernels.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import fx

from fxquant.ir.meta import info
from fxquant.ir.quant_plan import KernelChoice, TensorSpec
from fxquant.numerics.conv_geometry import fold_pads, split_pads
from fxquant.plan.backend import Call, Refusal

# onednn has no fast kernel for grouped convolutions with few channels a group; fbgemm has.
_NARROW_GROUP = 16


@dataclass(frozen=True)
class NativeBackend:
    """``torch.ops.quantized`` kernels.

    Attributes:
        engine: ``x86`` (onednn or fbgemm per layer), ``fbgemm``, ``onednn`` or ``qnnpack``.
    """

    engine: str = "x86"
    name: str = "native"

    def refuses_spec(self, spec: TensorSpec) -> str:
        """These kernels store activations as uint8 only."""
        return "" if spec.dtype == torch.uint8 else f"native kernels take uint8 activations, not {spec.dtype}"

    def kernel_for(self, call: Call) -> KernelChoice | Refusal:
        """Choose by the calling convention of the row's kernel."""
        kernel = call.row.kernels["native"]
        check = _CHECKS.get(kernel.convention)
        refused = check(call) if check is not None else ""
        if refused:
            return Refusal(refused)
        function = kernel.function or f"aten.{call.row.name}"
        if kernel.convention not in ("conv", "linear"):
            return KernelChoice(kernel.convention, function)
        engine = self._engine_for(call)
        return KernelChoice(kernel.convention, function, engine, _weight_limit(call, engine))

    def _engine_for(self, call: Call) -> str:
        if self.engine != "x86":
            return self.engine
        if call.row.name == "linear":
            return "onednn"
        assert call.weight is not None
        narrow = 1 < call.weight.shape[1] < _NARROW_GROUP and call.bound["groups"] > 1
        return "fbgemm" if narrow else "onednn"


def _weight_limit(call: Call, engine: str) -> str:
    """What int16 accumulation demands on CPUs without VNNI, and fbgemm's depthwise kernels on all."""
    assert call.weight is not None
    if engine == "qnnpack":
        return "none"
    depthwise = call.row.name != "linear" and call.weight.shape[1] == 1 and call.bound["groups"] > 1
    if engine == "onednn":
        return "none" if depthwise else "channels"
    return "half" if depthwise else "taps_then_channels"


def _refuse_weighted(call: Call) -> str:
    if not call.is_constant(call.bound["weight"]) or call.weight is None:
        return "its weight is computed from activations"
    bias = call.bound["bias"]
    if bias is not None and not call.is_constant(bias):
        return "its bias is computed from activations"
    return ""


def _refuse_conv(call: Call) -> str:
    refused = _refuse_weighted(call)
    if refused or call.weight is None:
        return refused
    geometry = ("stride", "padding", "dilation", "groups")
    if any(isinstance(call.bound[name], fx.Node) for name in geometry):
        return "its geometry depends on the input"
    pads = fold_pads(split_pads(call.bound, call.weight.shape), call.pad)
    if pads.grown_kernel(call.bound["dilation"]) is None:
        return "its uneven padding does not line up with its dilation"
    return ""


def _refuse_binary(call: Call) -> str:
    if call.bound.get("alpha", 1) != 1:
        return "alpha scales one operand"
    for name in call.row.activations:
        value = call.bound[name]
        if isinstance(value, fx.Node):
            if not info(value).is_float_tensor:
                return f"{name} is no floating-point tensor"
        elif not isinstance(value, (int, float)):
            return f"{name} is a {type(value).__name__}"
    return ""


def _refuse_interpolate(call: Call) -> str:
    if not str(call.bound["mode"]).startswith("nearest"):
        return f"{call.bound['mode']} interpolation has no fast int8 kernel"
    return ""


def _refuse_pad(call: Call) -> str:
    value = call.bound["value"]
    if call.bound["mode"] == "constant" and (isinstance(value, fx.Node) or (value or 0) != 0):
        return f"padding with {value}, which its range need not contain"
    return ""


def _refuse_average(call: Call) -> str:
    """Averaging whole maps narrows the range so much that sharing the input's would waste bits."""
    if call.bound.get("dtype") is not None:
        return "its dtype is converted"
    pooled = info(call.bound["input"]).tensor
    if pooled is None or prod(pooled.shape[2:]) == 1:
        return "torch's int8 average of single pixels is wrong"
    if call.row.name == "mean" or (call.output is not None and prod(call.output.shape[2:]) == 1):
        return "its range is much narrower than its input's, which an int8 average would have to share"
    return ""


def _refuse_clip(call: Call) -> str:
    bounds = [value for name, value in call.bound.items() if name != "input"]
    return "its bounds are tensors" if any(isinstance(value, fx.Node) for value in bounds) else ""


_CHECKS = {
    "clip": _refuse_clip,
    "conv": _refuse_conv,
    "linear": _refuse_weighted,
    "binary": _refuse_binary,
    "interpolate": _refuse_interpolate,
    "pad": _refuse_pad,
    "average": _refuse_average,
}
