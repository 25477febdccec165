"""Recurrent layers and cells on packed weights, float in and float out."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from fxquant.backends.native.engine import packing_for, require_engine
from fxquant.backends.native.kernels.base import Kernel, direct
from fxquant.backends.native.kernels.dynamic import as_quantized
from fxquant.ir.recurrent import Layers, Recurrent
from fxquant.ir.recurrent_static import StaticRecurrent
from fxquant.numerics.recurrent import Recurrence


class RecurrentSteps(Kernel, Recurrent):
    """Step by step, on the kernels of linear: whatever has no kernel of its own.

    Args:
        recurrence: what it is.
        tensors: as for ``ReferenceRecurrent``.
        engine: engine to pack for.
    """

    def __init__(self, recurrence: Recurrence, tensors: Mapping[str, Tensor], engine: str) -> None:
        Recurrent.__init__(self, recurrence)
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)
        self.engine = engine
        self.pack()

    @property
    def is_half(self) -> bool:
        """Whether its weights are float16."""
        return self.get_buffer(self.recurrence.weights[0]).dtype == torch.float16

    def pack(self) -> None:
        """Pack every weight for this kernel's engine on this CPU."""
        require_engine(self.engine)
        with torch.inference_mode(False), torch.no_grad(), packing_for(self.engine):
            for name in self.recurrence.weights:  # attributes, which torch.jit.trace finds
                setattr(self, f"packed_{name}", self._prepack(name))
        name = "linear_dynamic_fp16" if self.is_half else "linear_dynamic"
        self.packed_function = direct(getattr(torch.ops.quantized, name).default)

    def _prepack(self, name: str) -> Any:
        weight, bias = self.get_buffer(name), self._bias(name)
        if weight.dtype == torch.float16:
            return torch.ops.quantized.linear_prepack_fp16(weight.float(), bias)
        return torch.ops.quantized.linear_prepack(as_quantized(weight, self.get_buffer(f"{name}_scale")), bias)

    def _bias(self, name: str) -> Tensor | None:
        return getattr(self, name.replace("weight", "bias"), None)

    def product(self, name: str, x: Tensor) -> Tensor:
        """Multiply by a packed weight."""
        if len(x) == 0:
            return x.new_zeros(0, self.get_buffer(name).shape[0])
        return self.packed_function(x, getattr(self, f"packed_{name}"))  # type: ignore[no-any-return]


class RecurrentLayers(RecurrentSteps):
    """LSTM and GRU on torch's own kernels for whole sequences."""

    def pack(self) -> None:
        """Pack the weights of each layer and direction together."""
        super().pack()
        with torch.inference_mode(False), torch.no_grad():
            for suffix in self.recurrence.suffixes:
                setattr(self, f"packed_cell{suffix}", self._cell_params(suffix))

    def _cell_params(self, suffix: str) -> Any:
        names = f"weight_ih{suffix}", f"weight_hh{suffix}"
        packed = [getattr(self, f"packed_{name}") for name in names]
        if self.is_half:
            return torch.ops.quantized.make_quantized_cell_params_fp16(*packed)
        biases = [self._bias(name) for name in names]
        rows = len(self.get_buffer(names[0]))
        filled = [torch.zeros(rows) if bias is None else bias for bias in biases]
        return torch.ops.quantized.make_quantized_cell_params_dynamic(*packed, *filled, False)

    def layers(self, data: Tensor, batch_sizes: Tensor | None, state: list[Tensor]) -> Layers:
        """Run all layers in one call."""
        if batch_sizes is None and data.shape[1] == 0:
            return super().layers(data, batch_sizes, state)  # onednn's kernels refuse an empty batch
        recurrence, is_lstm = self.recurrence, self.recurrence.kind == "lstm"
        sequence = (data,) if batch_sizes is None else (data, batch_sizes)
        both = recurrence.directions == 2
        cells = [getattr(self, f"packed_cell{suffix}") for suffix in recurrence.suffixes]
        args = (*sequence, state if is_lstm else state[0], cells, True, recurrence.layers, 0.0, False, both)
        args = (*args, False) if batch_sizes is None else args
        with _without_autograd():
            if is_lstm:
                dtype = torch.float16 if self.is_half else torch.qint8
                outputs, *last = torch.quantized_lstm(*args, dtype=dtype, use_dynamic=True)
            else:
                outputs, *last = torch.quantized_gru(*args)
        return outputs, last


def _without_autograd() -> AbstractContextManager[Any]:
    """Where no gradients are recorded, keep the thousands of small operations inside a kernel from asking for them."""
    if torch.is_grad_enabled() or torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
        return nullcontext()
    return torch._C._AutoDispatchBelowADInplaceOrView()


class RecurrentStatic(Kernel, StaticRecurrent):
    """A recurrent layer on ranges known before: the sums of its products on integers.

    Args:
        recurrence: what it is.
        tensors: as for ``StaticRecurrent``.
        engine: of the kernels, ``onednn``.
    """

    def __init__(self, recurrence: Recurrence, tensors: Mapping[str, Tensor], engine: str) -> None:
        StaticRecurrent.__init__(self, recurrence, tensors)
        self.engine = engine
        self.pack()

    def pack(self) -> None:
        """Pack every weight for this CPU."""
        require_engine(self.engine)
        with torch.inference_mode(False), torch.no_grad():
            self.packed_weights = {name: self._prepack(name) for name in self.recurrence.weights}
        self.packed_function = direct(torch.ops.onednn.qlinear_pointwise.default)

    def _prepack(self, name: str) -> Any:
        """The packed weight and what follows it in a call: sums are wanted as they are, with all scales 1."""
        weight = self.get_buffer(name).contiguous()
        rows = len(weight)
        packed = torch.ops.onednn.qlinear_prepack(weight, [1, weight.shape[1]])
        scales, zeros = torch.ones(rows), torch.zeros(rows, dtype=torch.int32)
        return packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""

    def sums(self, name: str, integers: Tensor, zero_point: Tensor) -> Tensor:
        """Summed by the kernel in int32."""
        if len(integers) == 0:
            return torch.zeros(0, len(self.get_buffer(name)))
        return self.packed_function(integers, 1.0, int(zero_point), *self.packed_weights[name])  # type: ignore[no-any-return]
