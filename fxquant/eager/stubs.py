"""Where integers begin and end in a model that is quantized by hand."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class _Stub(nn.Module):
    """An identity that stands for a border.

    Args:
        qconfig: of this stub; the surrounding module's when None.
    """

    def __init__(self, qconfig: Any = None) -> None:
        super().__init__()
        if qconfig is not None:
            self.qconfig = qconfig

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x``."""
        return x


class QuantStub(_Stub):
    """Integers begin here: an identity, observed by ``prepare`` and turned into a quantization by ``convert``.

    Args:
        qconfig: of this stub; the surrounding module's when None.
    """


class DeQuantStub(_Stub):
    """Integers end here: an identity that ``convert`` turns into a dequantization.

    Args:
        qconfig: of this stub; the surrounding module's when None.
    """


class QuantWrapper(nn.Module):
    """A module between a ``QuantStub`` and a ``DeQuantStub``.

    Args:
        module: takes one tensor; its ``qconfig`` becomes the stubs'.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        qconfig = getattr(module, "qconfig", None)
        self.quant, self.dequant, self.module = QuantStub(qconfig), DeQuantStub(qconfig), module
        self.train(module.training)

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, call the module, dequantize."""
        result: Tensor = self.dequant(self.module(self.quant(x)))
        return result


def add_quant_dequant(module: nn.Module) -> nn.Module:
    """Put each module without children that has a QConfig of its own between stubs, in place.

    Args:
        module: the model.

    Returns:
        The model; wrapped itself when it has no children.
    """
    if next(module.children(), None) is None:
        return QuantWrapper(module) if getattr(module, "qconfig", None) is not None else module
    for name, child in module.named_children():
        module._modules[name] = add_quant_dequant(child)
    return module
