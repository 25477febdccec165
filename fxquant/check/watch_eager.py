"""Running a model as eager does, and writing down what a graph of it would not hold.

Capture records what it meets on its way; it does not see what happens inside modules it keeps whole, and it is the
very thing that is being checked. So the model also runs untraced, before three witnesses: torch's function mode sees
what Python asks of tensors, a profile function sees which functions run, a trace function sees which lines do.
"""

from __future__ import annotations

import ast
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fxquant.capture.contained_modules import contained_modules
from fxquant.capture.inputs import split_inputs
from fxquant.check.finding import FindingKind
from fxquant.check.observation import Observation
from fxquant.check.run_model import gradient_mode, seed_all
from fxquant.check.source_tree import span_of
from fxquant.check.user_frames import Places
from fxquant.check.watched_functions import kind_of_call, kind_of_function
from fxquant.ir.meta import storage_of

_CALL = nn.Module._wrapped_call_impl.__code__
_WRITES = frozenset(
    ("__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__idiv__", "__ifloordiv__", "__imod__",
     "__ipow__", "__iand__", "__ior__", "__ixor__", "__ilshift__", "__irshift__", "__imatmul__")
)  # fmt: skip
_ANSWERS = {
    "__bool__": FindingKind.TENSOR_BRANCH,
    "__contains__": FindingKind.TENSOR_BRANCH,
    "equal": FindingKind.TENSOR_BRANCH,
    "allclose": FindingKind.TENSOR_BRANCH,
    "is_nonzero": FindingKind.TENSOR_BRANCH,
    "__int__": FindingKind.TENSOR_NUMBER,
    "__float__": FindingKind.TENSOR_NUMBER,
    "__complex__": FindingKind.TENSOR_NUMBER,
    "__index__": FindingKind.TENSOR_NUMBER,
    "item": FindingKind.TENSOR_NUMBER,
    "tolist": FindingKind.TENSOR_NUMBER,
    "numpy": FindingKind.TENSOR_NUMPY,
    "__array__": FindingKind.TENSOR_NUMPY,
    "__setitem__": FindingKind.ITEM_ASSIGNMENT,
    "__format__": FindingKind.FORMAT,
    "__repr__": FindingKind.FORMAT,
    "__len__": FindingKind.SIZE,
}
_DATA_SHAPED = frozenset(("nonzero", "argwhere", "masked_select", "unique", "unique_consecutive"))
_SET_DATA = Tensor.data.__set__  # type: ignore[attr-defined]
_DROPOUTS = frozenset(
    (
        "dropout",
        "dropout1d",
        "dropout2d",
        "dropout3d",
        "alpha_dropout",
        "feature_alpha_dropout",
        "rrelu",
        "scaled_dot_product_attention",
    )
)


class EagerWatch(TorchFunctionMode):
    """The witnesses of one run.

    Args:
        model: the model that runs, a copy of the user's.
        inputs: the tensors it is called on, copies too.
        places: turns frames into places.

    Attributes:
        observations: what was seen, in order, without repeats.
        lines: by code object of the user's functions, the lines that ran.
        modules: by code object, paths of the modules whose forward ran it.
    """

    def __init__(self, model: nn.Module, inputs: list[Tensor], places: Places) -> None:
        super().__init__()
        self.model = model
        self.places = places
        self.user = places.user
        self.observations: dict[Observation, None] = {}
        self.lines: dict[CodeType, set[int]] = {}
        self.modules: dict[CodeType, set[str]] = {}
        self._inputs = [tensor for tensor in inputs if not tensor.is_inference()]
        self._state = [tensor for tensor in [*model.parameters(), *model.buffers()] if not tensor.is_inference()]
        self._contained = contained_modules(model) - set(map(id, model.modules()))
        self._memory = {storage_of(tensor) for tensor in self._state} - {0}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Put the witnesses in place, and take them away."""
        with ExitStack() as stack:
            stack.callback(_restore_profile, sys.getprofile())
            stack.callback(sys.settrace, sys.gettrace())
            stack.enter_context(self)
            sys.settrace(self._on_frame)
            sys.setprofile(self._on_call)
            yield

    def call(self, inputs: Any) -> None:
        """Run the model on ``inputs``, which must be those it was told of."""
        args, kwargs = split_inputs(inputs)
        seed_all()
        with gradient_mode(), warnings.catch_warnings(), self.watching():
            warnings.simplefilter("ignore")
            self.model(*args, **kwargs)

    def record(self, kind: FindingKind, frame: FrameType | None, value: str = "") -> None:
        """Remember that something happened at the user's line that ``frame`` belongs to."""
        place = self.places.of(frame)
        if place.file:
            self.observations[Observation(kind, place, value)] = None

    # -- tensors ------------------------------------------------------------------------------------

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function of torch, and write down what it means for a graph."""
        kwargs = kwargs or {}
        frame = sys._getframe(1)
        name = str(getattr(func, "__name__", ""))
        random_state = torch.default_generator.get_state()
        versions = self._versions() if _may_write(name, args, kwargs) else None
        result = func(*args, **kwargs)
        if kwargs.get("generator") is not None or not torch.equal(random_state, torch.default_generator.get_state()):
            self._drew(name, frame)
        if func == _SET_DATA and any(args[0] is tensor for tensor in self._state):
            self.record(FindingKind.BUFFER_UPDATE, frame)
        if versions is not None:
            self._wrote(versions, (*args[:1], kwargs.get("out")), frame)
        if name in _DATA_SHAPED or (name == "where" and len(args) + len(kwargs) == 1):  # called by torch's Python, too
            self.record(FindingKind.TENSOR_SHAPE, frame, _shown(result))
        elif self.user.asked(frame):
            self._answered(name, args, result, frame)
        return result

    def _answered(self, name: str, args: Any, result: Any, frame: FrameType) -> None:
        kind = _ANSWERS.get(name)
        if name == "__format__" and args[1]:  # a width or a number of digits: plain tracing stops there
            kind = FindingKind.TENSOR_NUMBER
        if kind is not None:
            self.record(kind, frame, _shown(result))
        elif name == "unbind" and frame.f_code.co_name == "__iter__":
            self.record(FindingKind.SIZE_LOOP, frame, f"{len(result)} elements")
        elif name == "__getitem__" and _has_mask(args[1]):
            self.record(FindingKind.TENSOR_SHAPE, frame, _shown(result))

    def _drew(self, name: str, frame: FrameType) -> None:
        module = self.model.get_submodule(self.places.module_path(frame))
        if name in _DROPOUTS:
            if not self.model.training:
                self.record(FindingKind.ALWAYS_DROPOUT, frame, name)
        elif not (type(module).__module__.startswith("torch.nn") and module.training):  # as nn.Dropout does there
            self.record(FindingKind.TORCH_RANDOM, frame, name)

    def _versions(self) -> tuple[list[int], list[int]]:
        return [tensor._version for tensor in self._inputs], [tensor._version for tensor in self._state]

    def _wrote(self, before: tuple[list[int], list[int]], written: tuple[Any, ...], frame: FrameType) -> None:
        inputs, state = self._versions()
        if inputs != before[0]:
            self.record(FindingKind.INPUT_UPDATE, frame)
        module = self.model.get_submodule(self.places.module_path(frame))
        is_state = state != before[1] or any(storage_of(item) in self._memory for item in written)  # ``p.data`` too
        if is_state and not type(module).__module__.startswith("torch.nn"):
            self.record(FindingKind.BUFFER_UPDATE, frame)

    # -- functions and lines ------------------------------------------------------------------------

    def _on_call(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code is nn.Module.train.__code__:
            self._sets_mode(frame)
        elif event == "call" and frame.f_code is _CALL:
            module = frame.f_locals["self"] if self._contained else None
            if id(module) in self._contained:
                self.record(FindingKind.MODULE_IN_CONTAINER, frame, type(module).__name__)
        elif event == "call":
            found = kind_of_call(frame, self.user)
            if found is not None:
                self.record(found.kind, found.caller, found.value)
        elif event == "c_call" and self.user.owns(frame.f_code):
            kind = kind_of_function(argument)
            if kind is not None:
                self.record(kind, frame, str(getattr(argument, "__qualname__", argument)))
            elif argument is hasattr and self._asks_about_tensor(frame):
                self.record(FindingKind.TYPE_TEST, frame)

    def _sets_mode(self, frame: FrameType) -> None:
        """``module.train()`` or ``module.eval()`` in the user's code, where that changes the mode of something."""
        module, mode = frame.f_locals["self"], bool(frame.f_locals["mode"])
        above = frame.f_back
        caller = above.f_back if above is not None and above.f_code is nn.Module.eval.__code__ else above
        changes = any(child.training != mode for child in module.modules())
        if changes and caller is not None and self.user.owns(caller.f_code):
            place, owner = self.places.of(caller), self.places.path_of(module)
            self.observations[Observation(FindingKind.ATTRIBUTE_UPDATE, place, "self.training", owner=owner)] = None

    def _asks_about_tensor(self, frame: FrameType) -> bool:
        """Whether the first argument of the call that ``frame`` makes is a variable that holds a tensor."""
        file = self.places.sources.file(frame.f_code.co_filename)
        span = span_of(frame.f_code, frame.f_lasti)
        node = file.expression_at(span) if span is not None else None
        if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Name):
            return False
        return isinstance(frame.f_locals.get(node.args[0].id), Tensor)

    def _on_frame(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        if not self.user.owns(frame.f_code):
            return None
        ran = self.lines.setdefault(frame.f_code, set())
        ran.add(frame.f_lineno)
        self.modules.setdefault(frame.f_code, set()).add(self.places.module_path(frame))

        def on_line(inner: FrameType, happened: str, value: Any) -> Callable[..., Any]:
            if happened == "line":
                ran.add(inner.f_lineno)
            return on_line

        return on_line


def _restore_profile(was: Any) -> None:
    """Put a profile function back; that of cProfile is an object of its own kind."""
    sys.setprofile(None)
    if hasattr(was, "enable"):
        was.enable()
    else:
        sys.setprofile(was)


def _may_write(name: str, args: Any, kwargs: dict[str, Any]) -> bool:
    in_place = name.endswith("_") and not name.endswith("__")
    flagged = bool(kwargs.get("inplace")) or any(argument is True for argument in args)
    return in_place or flagged or name in _WRITES or "out" in kwargs


def _has_mask(index: Any) -> bool:
    parts = index if isinstance(index, (tuple, list)) else (index,)
    return any(isinstance(part, Tensor) and part.dtype in (torch.bool, torch.uint8) for part in parts)


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"shape {tuple(value.shape)}"
    return "" if value is None or type(value).__module__ == "numpy" else repr(value)[:60]
