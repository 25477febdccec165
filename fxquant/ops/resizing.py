"""Resizing images."""

from __future__ import annotations

import torch.nn.functional as F

from fxquant.ops.opdef import Example, Kernel, OpDef, Selects
from fxquant.ops.shape import DOCS, IMAGE

_LINE, _VOLUME = ((2, 4, 7),), ((2, 4, 3, 4, 5),)

INTERPOLATE = OpDef(
    name="interpolate",
    target=F.interpolate,
    signature="input, size=None, scale_factor=None, mode='nearest', align_corners=None, "
    "recompute_scale_factor=None, antialias=False",
    output=Selects(),
    kernels={"native": Kernel("interpolate", "aten.upsample_nearest on integers")},
    examples=(
        Example(IMAGE, {"scale_factor": 2.0}),
        Example(IMAGE, {"size": (9, 5)}),
        Example(IMAGE, {"scale_factor": 1.5, "mode": "nearest-exact"}),
        Example(_LINE, {"scale_factor": 2.0}),
        Example(_LINE, {"size": 5, "mode": "nearest-exact"}),
        Example(_VOLUME, {"scale_factor": 2.0}),
        Example(IMAGE, {"scale_factor": 2.0, "mode": "bilinear", "align_corners": False}),
        Example(IMAGE, {"size": (9, 5), "mode": "bilinear", "align_corners": True}),
        Example(IMAGE, {"size": (4, 3), "mode": "bilinear", "antialias": True}),
        Example(IMAGE, {"size": (9, 1), "mode": "bilinear", "antialias": True}),
        Example(IMAGE, {"scale_factor": 2.0, "mode": "bicubic"}),
        Example(IMAGE, {"size": (9, 1), "mode": "bicubic", "antialias": True}),
        Example(IMAGE, {"size": (4, 3), "mode": "area"}),
        Example(_LINE, {"scale_factor": 2.0, "mode": "linear"}),
        Example(_VOLUME, {"scale_factor": 2.0, "mode": "trilinear"}),
    ),
    source=DOCS + "nn.functional.interpolate.html",
)

ROWS = (INTERPOLATE,)
