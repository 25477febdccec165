"""Recurrent layers and cells between stubs: observed step by step, then one loop on integer weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from fxquant.backends.native.backend import NativeBackend
from fxquant.backends.native.kernels.arriving import ArrivingRecurrent
from fxquant.backends.native.kernels.recurrent import RecurrentStatic
from fxquant.eager.roles import Role
from fxquant.errors import ConvertError
from fxquant.ir.quant_plan import Unit
from fxquant.ir.recurrent import recurrence_of
from fxquant.observers.recurrent import RecurrentObserver
from fxquant.passes.compute_qparams import observed_qparams
from fxquant.passes.quantize_recurrent import quantize_recurrent
from fxquant.plan.backend import Call, Refusal

INSIDE = "recurrent_observer"


class ObserveRecurrent:
    """A forward hook that shows the call to the observer of what is inside, and the output to the module's own.

    Args:
        own: name of the module's own observer.
    """

    def __init__(self, own: str) -> None:
        self.own = own

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Observe one call."""
        weights = {name: item.detach() for name, item in module.named_parameters(recurse=False)}
        with torch.no_grad():
            getattr(module, INSIDE)(*args, **kwargs, weights=weights)
            getattr(module, self.own)(_output_of(result))


def _output_of(result: Any) -> Tensor:
    """The outputs of a layer, or the hidden state of a cell."""
    first: Any = result if isinstance(result, Tensor) else result[0]
    found: Tensor = first.data if isinstance(first, PackedSequence) else first
    return found.detach()


def observe_recurrent(module: nn.Module, role: Role, path: str, own: str) -> None:
    """Attach the observers of a recurrent module.

    Args:
        module: with its QConfig as ``qconfig``; changed in place.
        role: its role.
        path: of it, for messages.
        own: name for the observer of its output.
    """
    qconfig: Any = module.qconfig
    module.add_module(INSIDE, RecurrentObserver(recurrence_of(role.layer), qconfig.activation, (path, path, "")))
    module.add_module(own, qconfig.activation())
    module.register_forward_hook(ObserveRecurrent(own), with_kwargs=True)


def make_static_recurrent(
    module: nn.Module, role: Role, path: str, engine: str, output: tuple[Tensor, Tensor]
) -> nn.Module:
    """The kernel of a recurrent module between integers.

    Args:
        module: observed.
        role, path: of it.
        engine: that the model is for.
        output: scale and zero point of its outputs.

    Raises:
        ConvertError: no kernel takes it. CalibrationError: it was never called.
    """
    qconfig, row = module.qconfig, role.row
    assert row is not None and qconfig is not None
    found = NativeBackend(engine).kernels_for(Call(row, {}, None, None, frozenset(), role.layer), "static")
    if isinstance(found, Refusal):
        raise ConvertError(
            f"{type(role.layer).__name__} cannot be quantized as its qconfig asks: {found.reason}",
            module_path=path,
            remedy="set its qconfig to None to keep it float",
        )
    recurrence = recurrence_of(role.layer)
    unit = Unit(path or row.name, row.name, "", (), kernel=found[0], mode="static")
    tensors = quantize_recurrent(unit, role.layer, recurrence, qconfig.weight())  # type: ignore[operator,union-attr]
    places: Any = getattr(module, INSIDE).places
    for place, attached in places.items():
        qparams = observed_qparams(f"{path}.{place}", attached.observer)
        tensors[f"{place}_scale"], tensors[f"{place}_zero_point"] = qparams.scale, qparams.zero_point
    return ArrivingRecurrent(RecurrentStatic(recurrence, tensors, found[0].engine), *output)
