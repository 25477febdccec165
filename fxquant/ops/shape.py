"""Views and changes of shape: the numbers stay what they are."""

from __future__ import annotations

from typing import Any

import torch

from fxquant.ops.opdef import Example, Kernel, Moves, OpDef

DOCS = "https://docs.pytorch.org/docs/stable/generated/torch."
IMAGE = ((2, 4, 6, 6),)
SAME_FUNCTION = {"native": Kernel("same_function")}
ON_INTEGERS = {"native": Kernel("on_integers")}
_SAME_VALUE = {"native": Kernel("same_value", "aten.detach")}


def moves(name: str, signature: str, *examples: dict[str, Any], method: bool = False, **fields: Any) -> OpDef:
    """One row for an operator that puts numbers in other places.

    Args:
        name: of the function in torch, and of the method.
        signature: its parameters.
        examples: arguments of one test call each, on activations of ``shapes``.
        method: whether the method is called, where torch has no such function or the function takes fewer forms.
        fields: other fields of the row. ``methods`` are added to the one of this name.
    """
    shapes, methods = fields.pop("shapes", IMAGE), (name, *fields.pop("methods", ()))
    usual: dict[str, Any] = {
        "target": name if method else getattr(torch, name),
        "output": Moves(),
        "kernels": SAME_FUNCTION,
        "examples": tuple(Example(shapes, example) for example in examples),
        "source": f"{DOCS}{'Tensor.' if method else ''}{name}.html",
    }
    return OpDef(name=name, signature=signature, methods=methods, **{**usual, **fields})


SHAPES = (
    moves("flatten", "input, start_dim=0, end_dim=-1", {"start_dim": 1}, {"start_dim": 1, "end_dim": 2}),
    moves("ravel", "input", {}),
    moves("reshape", "input, *shape", {"shape": (2, 8, 18)}, {"shape": (2, -1)},
          method=True, functions=(torch.reshape,), methods=("view",)),
    moves("reshape_as", "input, other", {"other": torch.zeros(2, 8, 18)}, method=True, methods=("view_as",)),
    moves("unflatten", "input, dim, sizes", {"dim": 1, "sizes": (2, 2)}, method=True, functions=(torch.unflatten,)),
    moves("squeeze", "input, dim=None", {"dim": 1}, {"dim": (1, 2)}, {},
          shapes=((2, 1, 4, 6),), methods=("squeeze_",)),
    moves("unsqueeze", "input, dim", {"dim": 1}, {"dim": -1}, methods=("unsqueeze_",)),
    moves("expand", "input, *size", {"size": (2, 4, 6, 6)}, {"size": (3, -1, 4, 6, -1)},
          method=True, shapes=((2, 4, 1, 6),)),
    moves("expand_as", "input, other", {"other": torch.zeros(2, 4, 6, 6)}, method=True, shapes=((2, 4, 1, 6),)),
    moves("broadcast_to", "input, size", {"size": (2, 4, 6, 6)}, shapes=((2, 4, 1, 6),)),
)  # fmt: skip

VIEWS = (
    moves("permute", "input, *dims", {"dims": (0, 2, 3, 1)}, {"dims": (0, 1, -1, -2)},
          method=True, functions=(torch.permute,)),
    moves("transpose", "input, dim0, dim1", {"dim0": 1, "dim1": 2}, {"dim0": -1, "dim1": -2},
          functions=(torch.swapaxes, torch.swapdims), renamed={"axis0": "dim0", "axis1": "dim1"},
          methods=("transpose_", "swapaxes", "swapaxes_", "swapdims", "swapdims_")),
    moves("t", "input", {}, shapes=((6, 4),), methods=("t_",)),
    moves("movedim", "input, source, destination", {"source": 1, "destination": -1},
          {"source": (1, 2), "destination": (2, 1)}, functions=(torch.moveaxis,), methods=("moveaxis",)),
    moves("narrow", "input, dim, start, length", {"dim": 1, "start": 1, "length": 2}),
    moves("select", "input, dim, index", {"dim": 1, "index": 1}, {"dim": 3, "index": -2}),
    moves("diagonal", "input, offset=0, dim1=0, dim2=1", {"dim1": 2, "dim2": 3}, {"offset": 1, "dim1": 1, "dim2": 2}),
    OpDef(
        name="tensor_unfold",
        target="unfold",
        signature="input, dimension, size, step",
        methods=("unfold",),
        output=Moves(),
        kernels=SAME_FUNCTION,
        examples=(Example(IMAGE, {"dimension": 2, "size": 3, "step": 2}),),
        source=DOCS + "Tensor.unfold.html",
    ),
)  # fmt: skip


def _conversion(name: str, signature: str, *examples: dict[str, Any], methods: tuple[str, ...] = ()) -> OpDef:
    """A conversion of dtype, device or layout; it does nothing to float32 that stays float32."""
    kernels = {"native": Kernel("conversion", "aten.contiguous")}
    return moves(name, signature, *examples, method=True, methods=methods, kernels=kernels)


SAME_NUMBERS = (
    moves("contiguous", "input, *, memory_format=None", {}, {"memory_format": torch.channels_last}, method=True),
    moves("clone", "input, *, memory_format=None", {}, kernels=_SAME_VALUE),
    moves("detach", "input", {}, kernels=_SAME_VALUE, methods=("detach_",)),
    _conversion("to", "input, *target, dtype=None, device=None, other=None, non_blocking=False, copy=False, "
                "memory_format=None", {"dtype": torch.float32}, {"target": (torch.float32,)}, {"target": ("cpu",)},
                {"memory_format": torch.channels_last}),
    _conversion("float", "input, *, memory_format=None", {}),
    _conversion("cpu", "input, *, memory_format=None", {}),
    _conversion("type", "input, dtype", {"dtype": torch.float32}),
    _conversion("type_as", "input, other", {"other": torch.zeros(1)}),
)  # fmt: skip

ROWS = (*SHAPES, *VIEWS, *SAME_NUMBERS)
