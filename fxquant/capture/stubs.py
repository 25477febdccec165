"""Modules of the eager style that mean something: fxquant's and torch.ao's are told by the names of their classes."""

from __future__ import annotations

from torch import nn

QUANT, DEQUANT, FUNCTIONAL = "QuantStub", "DeQuantStub", "FloatFunctional"


def stub_kind(module: nn.Module) -> str:
    """``QuantStub``, ``DeQuantStub`` or ``FloatFunctional`` when a module is one, or a subclass; else ""."""
    names = [base.__name__ for base in type(module).__mro__]
    return next((kind for kind in (QUANT, DEQUANT, FUNCTIONAL) if kind in names), "")


def is_border(module: nn.Module) -> bool:
    """Whether a module marks where integers begin or end."""
    return stub_kind(module) in (QUANT, DEQUANT)
