"""The native backend: which kernel runs a call, on which engine, and what it demands of the weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fxquant.backends.native.conventions.table import CONVENTIONS
from fxquant.ir.quant_plan import KernelChoice, TensorSpec
from fxquant.plan.backend import Call, Refusal


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
        kernel = call.row.kernels[self.name]
        convention = CONVENTIONS[kernel.convention]
        refused = convention.check(call)
        if refused:
            return Refusal(refused)
        function = kernel.function or f"aten.{call.row.name}"
        if convention.engine is None:
            return KernelChoice(kernel.convention, function, rate=convention.rate)
        return KernelChoice(kernel.convention, function, *convention.engine(call, self.engine), convention.rate)
