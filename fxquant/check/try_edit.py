"""Whether the change that a fix suggests runs: the model runs with it, and computes what it did before."""

from __future__ import annotations

import gc
import inspect
import itertools
import sys
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fxquant.capture.copy_module import copy_module
from fxquant.capture.inputs import map_leaves
from fxquant.capture.outer_state import OuterState
from fxquant.check.compare import Outcome, compare
from fxquant.check.finding import Edit, FindingKind
from fxquant.check.observation import Observation
from fxquant.check.probes import Example, value_probes
from fxquant.check.run_model import Result, call
from fxquant.check.source_tree import SourceFile, Sources
from fxquant.ir.codes import codes_in

# Their fixes change results: numbers are drawn elsewhere, or not at all.
_OTHER_NUMBERS = (FindingKind.PYTHON_RANDOM, FindingKind.ALWAYS_DROPOUT)
# Inputs of other values that an edit is tried on: new ones, and those with their signs turned.
_OTHER_VALUES = 2
# Of calls that are compared with each other, where numbers are drawn.
_SEEDS = range(8)

Functions = dict[CodeType, list[FunctionType]]


@dataclass
class EditTrial:
    """Tries edits on copies of a model.

    Attributes:
        model: the user's model.
        inputs: the example inputs.
        sources: parsed files.
        codes: code objects of the user's functions that run.
        outer: what the model changes outside of itself.
    """

    model: nn.Module
    inputs: Any
    sources: Sources
    codes: tuple[CodeType, ...]
    outer: OuterState

    def __post_init__(self) -> None:
        self._functions: Functions | None = None
        self._before: dict[bool, list[tuple[Any, Result]]] = {}
        self._varies: dict[bool, bool] = {}

    def works(self, edit: Edit, seen: Observation) -> bool:
        """Whether the model runs with ``edit`` and returns the same, on the example and on other values.

        Args:
            edit: the change of a function that runs.
            seen: what it is a fix for.
        """
        training = seen.mode == "training" if seen.mode else self.model.training
        before = self._results(training)
        file = self.sources.file(edit.file)
        varies = seen.kind in _OTHER_NUMBERS and self._results_vary(training)
        changed = _changed_functions(edit, file, self._functions_that_run())
        if not changed:
            return False
        selects = _Selections([code for _, code in changed], edit)
        with _exchanged(changed), selects:
            return (
                all(
                    self._is_alike(result, self._call(inputs, training), varies)
                    for inputs, result in before
                    if result.error is None
                )
                and not selects.differ
            )

    def _results(self, training: bool) -> list[tuple[Any, Result]]:
        """Inputs, and what the model returns for them."""
        if training not in self._before:
            others = itertools.islice(value_probes(Example.of(self.model, self.inputs)), _OTHER_VALUES)
            tried = [self.inputs, *(probe.inputs for probe in others)]
            tried += [_without_optional(self.model, self.inputs), map_leaves(self.inputs, _zero)]
            self._before[training] = [(inputs, self._call(inputs, training)) for inputs in tried]
        return self._before[training]

    def _call(self, inputs: Any, training: bool) -> Result:
        model = copy_module(self.model)
        model.train(training)
        result = call(model, inputs)
        self.outer.restore()
        return result

    @staticmethod
    def _is_alike(before: Result, after: Result, varies: bool) -> bool:
        if after.error is not None:
            return False
        return varies or compare(before.value, after.value).outcome.holds

    def _results_vary(self, training: bool) -> bool:
        """Whether results differ from call to call: not where a generator is made, and seeded, at every call."""
        if training not in self._varies:
            model = copy_module(self.model).train(training)
            results = [call(model, self.inputs, seed).value for seed in _SEEDS]
            self.outer.restore()
            self._varies[training] = any(compare(results[0], other).outcome is not Outcome.EXACT for other in results)
        return self._varies[training]

    def _functions_that_run(self) -> Functions:
        """The functions of each code object."""
        if self._functions is None:
            self._functions = defaultdict(list)
            for owner in gc.get_referrers(*self.codes):
                if isinstance(owner, FunctionType):
                    self._functions[owner.__code__].append(owner)
        return self._functions


class _Selections(TorchFunctionMode):
    """Looks at what ``torch.where`` selects from on the lines of an edit: the side not taken may be of another form.

    Args:
        codes: that run with the edit.
        edit: the change.

    Attributes:
        differ: whether the two sides of one were of different shapes or dtypes.
    """

    def __init__(self, codes: Collection[CodeType], edit: Edit) -> None:
        super().__init__()
        self.differ = False
        self._codes = codes
        self._lines = range(edit.first_line, edit.first_line + len(edit.text.split("\n")))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function of torch."""
        frame = sys._getframe(1)
        if func is torch.where and len(args) == 3 and frame.f_code in self._codes and frame.f_lineno in self._lines:
            sides = [item for item in args[1:] if isinstance(item, Tensor)]
            self.differ |= len({(item.shape, item.dtype) for item in sides}) > 1
        return func(*args, **(kwargs or {}))


def _without_optional(model: nn.Module, inputs: Any) -> Any:
    """Inputs without those that the model takes for None when they are not given."""
    parameters = inspect.signature(model.forward).parameters
    optional = {name for name, parameter in parameters.items() if parameter.default is None}
    if isinstance(inputs, dict):
        return {name: value for name, value in inputs.items() if name not in optional}
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    return given[: next((place for place, name in enumerate(parameters) if name in optional), len(given))]


def _zero(leaf: Any, path: Any) -> Any:
    """Zero for a number that is given as a tensor, such as a count."""
    return leaf * 0 if isinstance(leaf, Tensor) and not leaf.dim() else leaf


def _changed_functions(edit: Edit, file: SourceFile, functions: Functions) -> list[tuple[FunctionType, CodeType]]:
    """The functions that an edit changes, each with its new code."""
    lines = [line.rstrip("\n") for line in file.lines]
    lines[edit.first_line - 1 : edit.last_line] = edit.text.split("\n")
    try:
        new = _numbered(compile("\n".join(lines), file.path, "exec", dont_inherit=True))
    except SyntaxError:
        return []
    names = {
        (code.co_qualname, code.co_firstlineno): name
        for name, code in _numbered(compile(file.text, file.path, "exec", dont_inherit=True)).items()
    }
    found = []
    for code, owners in functions.items():
        name = names.get((code.co_qualname, code.co_firstlineno))
        if code.co_filename == file.path and _spans(code, edit) and name in new:
            fitting = new[name].co_freevars == code.co_freevars
            found += [(owner, new[name]) for owner in owners if fitting]
    return found


def _numbered(module: CodeType) -> dict[tuple[str, int], CodeType]:
    """All code in a module, by qualified name and a number among those of the same name."""
    counts: dict[str, int] = defaultdict(int)
    found = {}
    for code in codes_in(module):
        found[code.co_qualname, counts[code.co_qualname]] = code
        counts[code.co_qualname] += 1
    return found


def _spans(code: CodeType, edit: Edit) -> bool:
    """Whether an edit is within a piece of code."""
    last = max((line for _, _, line in code.co_lines() if line), default=0)
    return code.co_firstlineno <= edit.first_line <= last


@contextmanager
def _exchanged(changed: Iterable[tuple[FunctionType, CodeType]]) -> Iterator[None]:
    """Give functions other code for a while."""
    before = [(function, function.__code__) for function, _ in changed]
    try:
        for function, code in changed:
            function.__code__ = code
        yield
    finally:
        for function, code in before:
            function.__code__ = code
