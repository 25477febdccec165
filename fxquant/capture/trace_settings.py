"""What one trace is told before it begins."""

from __future__ import annotations

from dataclasses import dataclass
from types import CodeType
from typing import Any

from torch import Tensor, nn

from fxquant.capture.against_eager import Marks
from fxquant.capture.cut_function import Cut, CutKey, Where
from fxquant.capture.half_precision import HalfPrecision
from fxquant.capture.trouble import Spot
from fxquant.capture.varying_lists import Path
from fxquant.capture.watched_code import WatchedCode


@dataclass(frozen=True, kw_only=True)
class TraceSettings:
    """How to trace.

    Attributes:
        leaf_names: module paths that stay float leaves.
        leaf_classes: module classes that stay float leaves.
        whole: whether the model is called as one part.
        trains: whether the graph is to be trained.
        varying: paths of lists among the inputs that may be of any length.
        precision: of a model in half precision.
        inputs_apart: whether no two tensors of the example are one, or lie in the same memory.
        plain_tensors: paths of buffers of the copy that are plain attributes of the user's model.
        versions: tensors outside the model that this trace or one before it met, and those in lists, dictionaries and
            objects of its copy, with their versions then, by identity; the trace adds to them.
        sizes_built_in: whether answers about sizes are always built in.
        refused: (code, position) of statements that ask for sizes and could not be kept whole.
        chosen: what is cut out around such a statement, see ``FloatRegions``; the trace adds to it.
        rejected_before: keys of those on whose results branches depend.
        looked_at: statements of which is known whether other sizes answer them differently; the trace adds to them.
        ends_early: whether the trace may end before the model does, see ``EarlyEnd``.
        each_layer: whether layers that repeat are traced each.
        watched: what of the code of layers ran, see ``KnownCode``; the trace adds to it.
        marks: gets the results of modules, where they are wanted.
    """

    leaf_names: frozenset[str]
    leaf_classes: tuple[type[nn.Module], ...]
    whole: bool
    trains: bool
    varying: frozenset[Path]
    precision: HalfPrecision | None
    inputs_apart: bool
    plain_tensors: frozenset[str]
    versions: dict[int, tuple[Tensor, int]]
    sizes_built_in: bool
    refused: set[tuple[CodeType, Any]]
    chosen: dict[tuple[CodeType, Where], Cut]
    rejected_before: set[CutKey]
    looked_at: set[Spot]
    ends_early: bool
    each_layer: bool
    watched: dict[type, WatchedCode]
    marks: Marks | None
