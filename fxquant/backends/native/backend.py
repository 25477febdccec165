"""The native backend: which kernel runs a call, on which engine, and what it demands of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from fxquant.backends.native.convention import Convention, Packing
from fxquant.backends.native.conventions.lookup import LOOKUP, LOOKUP_CHANNELS, LOOKUP_PAIRS
from fxquant.backends.native.conventions.table import CONVENTIONS, kernel_of
from fxquant.backends.native.conventions.transposed import TRANSPOSED, ordinary
from fxquant.backends.native.engine import available_engines
from fxquant.ir.meta import TensorMeta
from fxquant.ir.quant_plan import KernelChoice, TensorSpec
from fxquant.ops.opdef import Kernel
from fxquant.plan.backend import Call, Refusal

# Numbers in one image's result from which one kernel for convolution and sum is about as fast as two, and rounds once.
# Source: measurements on CPUs with and without VNNI, see ``benchmarks/kernels.py``.
_LARGE_SUM = 150_000


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

    def sets_range(self, kernel: KernelChoice) -> bool:
        """torch's ``quantized.*`` functions take the output's scale and zero point; all others keep their input's."""
        return kernel.own_range or kernel.function.startswith("quantized.")

    def kernel_with_sum(self, kernel: KernelChoice, output: TensorMeta) -> KernelChoice | None:
        """onednn's convolutions of images add in place; for small results the way to them costs more than it saves."""
        numbers = math.prod(output.shape[1:])
        if (kernel.function, kernel.engine) != ("quantized.conv2d", "onednn") or numbers < _LARGE_SUM:
            return None
        return replace(kernel, convention="conv_add", function="onednn.qconv2d_pointwise.binary")

    def kernels_for(self, call: Call, mode: str = "") -> tuple[KernelChoice, ...] | Refusal:
        """The possible kernels whose calling convention takes the call, the best first."""
        own = call.row.kernels[f"{self.name}.{mode}"] if mode else kernel_of(call, self.name)
        refusals: dict[str, str] = {}
        choices: list[KernelChoice] = []
        for kernel in _kernels_of_mode(own) if mode else _possible_kernels(call, own):
            convention = CONVENTIONS[kernel.convention]
            refusals[kernel.convention] = convention.check(call)
            if not refusals[kernel.convention]:
                choices += self._choices(kernel, convention, call)
        if not choices:
            missing = f"no engine of this build of torch has {own.function}"
            return Refusal(refusals.get(own.convention) or next(filter(None, refusals.values()), missing))
        return tuple(choice for choice in choices if choice.own_range == choices[0].own_range)

    def _choices(self, kernel: Kernel, convention: Convention, call: Call) -> Iterator[KernelChoice]:
        """The kernel, once for each engine that it can be packed for in this build of torch."""
        packings = (Packing(""),) if convention.packings is None else convention.packings(call, self.engine)
        for packing in packings:
            if packing.engine in ("", self.engine, *available_engines()):
                yield KernelChoice(
                    convention=kernel.convention,
                    function=kernel.function or f"aten.{call.row.name}",
                    engine=packing.engine,
                    weight_limit=packing.weight_limit,
                    weight_granularity=packing.weight_granularity,
                    rate=convention.rate,
                    integer_constants=convention.integer_constants,
                    own_range=convention.own_range(call),
                    probed=packing.probed,
                    note=packing.note,
                )


def _kernels_of_mode(own: Kernel) -> tuple[Kernel, ...]:
    """The row's own kernel; recurrent layers also run step by step."""
    if not own.convention.startswith("recurrent") or "steps" in own.convention:
        return (own,)
    half = own.convention.endswith("float16")
    function = "quantized.linear_dynamic_fp16" if half else "quantized.linear_dynamic"
    return (own, Kernel("recurrent_steps_float16" if half else "recurrent_steps", function))


def _possible_kernels(call: Call, own: Kernel) -> tuple[Kernel, ...]:
    """The row's own kernel and, where numbers are treated one by one, tables; the better ones first."""
    if own.convention == TRANSPOSED:
        return (own, ordinary(own))
    if len(call.nodes) > 1:
        return (LOOKUP, LOOKUP_CHANNELS)
    if not call.row.is_pointwise(call.bound):
        return (own,)
    if call.row.clip is not None:
        return (own, LOOKUP, LOOKUP_CHANNELS, LOOKUP_PAIRS)
    return (LOOKUP, own, LOOKUP_CHANNELS, LOOKUP_PAIRS)
