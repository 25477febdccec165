"""Rearranging, repeating and padding: the output is a new arrangement of the input's numbers, zeros at most added."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from fxquant.ops.opdef import Example, Kernel, OpDef, Selects
from fxquant.ops.shape import DOCS, IMAGE, ON_INTEGERS, moves

_FUNCTIONAL = f"{DOCS}nn.functional."


def _through_float(name: str, convention: str = "through_float") -> dict[str, Kernel]:
    """Adding zeros needs the zero point; float32 has a zero of its own, and the way through it is exact."""
    return {"native": Kernel(convention, f"aten.{name} in float32, exact")}


REARRANGED = (
    moves("flip", "input, *dims", {"dims": (2,)}, {"dims": (1, -1)},
          method=True, functions=(torch.flip,)),
    moves("fliplr", "input", {}),
    moves("flipud", "input", {}),
    moves("rot90", "input, k=1, dims=(0, 1)", {"dims": (2, 3)}, {"k": 3, "dims": (1, 3)}, {"k": 2, "dims": [2, 3]}),
    moves("roll", "input, shifts, dims=()", {"shifts": 1, "dims": 2}, {"shifts": (1, -2), "dims": (1, 3)},
          {"shifts": 7}, kernels=ON_INTEGERS),
    moves("pixel_shuffle", "input, upscale_factor", {"upscale_factor": 2}, functions=(F.pixel_shuffle,),
          kernels={"native": Kernel("pixel_shuffle", "aten.pixel_shuffle on integers")}, methods=()),
    moves("pixel_unshuffle", "input, downscale_factor", {"downscale_factor": 2}, functions=(F.pixel_unshuffle,)),
    moves("channel_shuffle", "input, groups", {"groups": 2}, functions=(F.channel_shuffle,)),
)  # fmt: skip

REPEATED = (
    moves("repeat", "input, *repeats", {"repeats": (1, 2, 1, 1)}, {"repeats": (3, 1, 1, 2, 1)},
          method=True),
    moves("repeat_interleave", "input, repeats, dim=None, *, output_size=None", {"repeats": 2, "dim": 1},
          {"repeats": torch.tensor([1, 0, 2, 3]), "dim": 1}, {"repeats": 2}),
    moves("tile", "input, *dims", {"dims": (1, 2)}, {"dims": (2, 1, 1, 1, 1)},
          method=True, functions=(torch.tile,)),
)  # fmt: skip

WITH_ZEROS = (
    moves("tril", "input, diagonal=0", {}, {"diagonal": -1}, output=Selects(), kernels=_through_float("tril"),
          methods=("tril_",)),
    moves("triu", "input, diagonal=0", {}, {"diagonal": 2}, output=Selects(), kernels=_through_float("triu"),
          methods=("triu_",)),
    moves("diag_embed", "input, offset=0, dim1=-2, dim2=-1", {}, {"offset": 1, "dim1": 1}, output=Selects(),
          kernels=_through_float("diag_embed")),
    OpDef(
        name="unfold",
        target=F.unfold,
        signature="input, kernel_size, dilation=1, padding=0, stride=1",
        output=Selects(),
        kernels={"native": Kernel("unfold", "aten.as_strided on integers")},
        examples=(
            Example(IMAGE, {"kernel_size": 2}),
            Example(IMAGE, {"kernel_size": (3, 2), "dilation": (1, 2), "padding": (1, 0), "stride": 2}),
        ),
        source=_FUNCTIONAL + "unfold.html",
    ),
    OpDef(
        name="fold",
        target=F.fold,
        signature="input, output_size, kernel_size, dilation=1, padding=0, stride=1",
        output=Selects(),
        kernels=_through_float("fold", "fold"),
        examples=(
            Example(((2, 12, 9),), {"output_size": (6, 6), "kernel_size": 2, "stride": 2}),
            Example(((2, 12, 25),), {"output_size": (6, 6), "kernel_size": 2}, outcome="step"),
        ),
        source=_FUNCTIONAL + "fold.html",
    ),
)  # fmt: skip

PAD = OpDef(
    name="pad",
    target=F.pad,
    signature="input, pad, mode='constant', value=None",
    output=Selects(),
    kernels={"native": Kernel("pad", "aten.pad on integers")},
    fills="value",
    examples=(
        Example(IMAGE, {"pad": (1, 2, 1, 0)}),
        Example(IMAGE, {"pad": (1, -2, -1, 0)}),
        Example(IMAGE, {"pad": (1, 1, 0, 2), "value": 0.25}),
        Example(IMAGE, {"pad": (1, 1, 0, 2, 0, 1), "mode": "constant", "value": -4}),
        *(Example(IMAGE, {"pad": (1, 1, 2, 0), "mode": mode}) for mode in ("reflect", "replicate", "circular")),
        *(Example(((2, 4, 6),), {"pad": (1, 2), "mode": mode}) for mode in ("reflect", "replicate", "circular")),
        *(Example(((2, 4, 3, 4, 5),), {"pad": (1, 2, 0, 1, 1, 1), "mode": mode}) for mode in ("replicate", "reflect")),
    ),
    source=_FUNCTIONAL + "pad.html",
)

ROWS = (*REARRANGED, *REPEATED, *WITH_ZEROS, PAD)
