"""Layers that repeat: recorded from the one before, without running their Python again.

Deep models run the same few layers over and over. After some calls that look the same (``layer_signature``) and left
the same nodes and facts, the next is recorded from them, node by node, on its own values. Layers that do anything else
than compute are traced each by itself, and so are all of a model in which something changes, or that computes something
else than eager.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Sized
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn
from torch.nn.modules.module import _has_any_global_hook

from fxquant.capture.cut_gradients import outside_gradients
from fxquant.capture.describe_node import UNWRITTEN
from fxquant.capture.facts import CHECKED, DECIDED_ELSEWHERE, OF_THE_MODEL, RECORDED, FactKind
from fxquant.capture.known_code import KnownCode
from fxquant.capture.layer_recording import DTYPE, RANK, VALUE, CallBegun, LayerRecording, Place, RepeatedCall
from fxquant.capture.layer_signature import LayerSignature, UnknownCodeError, UnlikeError
from fxquant.capture.layer_steps import LayerSteps
from fxquant.capture.proxy import ValueProxy
from fxquant.capture.record_again import RecordAgain
from fxquant.capture.source import user_line
from fxquant.ir.effects import DATA_SHAPED, RANDOM, name_of
from fxquant.ir.float_part import FloatPart, runs_user_code
from fxquant.ir.meta import info

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer

_TRACED_FIRST = 1  # calls of a class that are not looked at
_ALIKE = 4  # calls after each other that left the same
# What is met again in each layer, and is the same for each of them.
_SAME_FOR_ALL = frozenset(
    (FactKind.STATIC, FactKind.LENGTH, FactKind.COMPOSITE, FactKind.UNPACKING, FactKind.FACTORY, FactKind.TYPE_TEST,
     FactKind.TRAINING, FactKind.RECURRENT)
)  # fmt: skip
_HANDLED = (CHECKED, RECORDED, DECIDED_ELSEWHERE, OF_THE_MODEL)
_LITERALS = (int, float, bool, str, type(None))


class RepeatedLayers:
    """The layers of one trace.

    Args:
        tracer: of the trace.

    Attributes:
        paused: whether each layer is traced by itself.
        used: whether one was not.
        repeated: calls that were recorded from others.
        modules: of the model, by path.
        code: what is known of the classes of layers.
    """

    def __init__(self, tracer: ValueTracer) -> None:
        self.tracer = tracer
        self.paused = tracer.settings.each_layer
        self.used = False
        self.repeated: list[RepeatedCall] = []
        self._calls: Counter[type[nn.Module]] = Counter()
        self._known: dict[Hashable, LayerRecording] = {}
        self._steps: dict[LayerRecording, LayerSteps] = {}
        self._in_vain: Counter[type[nn.Module]] = Counter()
        self.code = KnownCode(tracer.settings.watched)
        self.modules: dict[str, nn.Module] = {}

    def call(
        self, module: nn.Module, path: str, args: tuple[Any, ...], kwargs: dict[str, Any], trace: Callable[[], Any]
    ) -> Any:
        """Record a call of a module.

        Args:
            module, path: what is called.
            args, kwargs: of the call.
            trace: records it by running the module.
        """
        self._calls[type(module)] += 1
        is_torchs, has_layers = type(module).__module__.startswith("torch.nn."), bool(module._modules)
        if has_layers and not is_torchs:
            self.tracer.answers.checks.early_end.layer_begins(self._calls[type(module)])
        is_operation = is_torchs and not has_layers
        skipped = self._calls[type(module)] <= _TRACED_FIRST or self._in_vain[type(module)] >= _ALIKE
        if self.paused or is_operation or skipped or _has_any_global_hook():  # type: ignore[no-untyped-call]
            return trace()
        return self._call(module, path, args, kwargs, trace)

    def _call(
        self, module: nn.Module, path: str, args: tuple[Any, ...], kwargs: dict[str, Any], trace: Callable[[], Any]
    ) -> Any:
        """Record a call of a layer that may be like others."""
        tracer, kind, key, known = self.tracer, type(module), None, None
        tracer.answers.integers.settle()
        place = Place(path, tracer.scope.calls, user_line())
        try:
            key, given = self._key(module, path, args, kwargs, place)
            known = self._known.get(key)
            if known is not None and known.times >= _ALIKE:
                self.code.runs_unseen(kind)
                return self._record_again(known, place, given.nodes)
        except UnknownCodeError:
            if not self.code.watch(kind):
                self._in_vain[kind] += 1
                return trace()
        except UnlikeError:
            self._in_vain[kind] += 1
            return trace()
        before, begun = self._state(), CallBegun(tracer, place)
        with self.code.watching(kind, known is None) as grew:  # what is known runs the same once more
            result = trace()
        tracer.answers.integers.settle()
        try:
            after, given = self._key(module, path, args, kwargs, place)
        except UnlikeError:
            after = None
        if after is not None and before == self._state() and (key in (None, after) or grew()):
            made = begun.recorded(list(given.nodes), result)
            if self._only_computes(made, given.containers):
                made.times = 1 if known is None or known.compared() != made.compared() else known.times + 1
                self._known[after] = made
                return result
        self._in_vain[kind] += 1
        self._known.pop(key, None)
        return result

    def _key(
        self, module: nn.Module, path: str, args: tuple[Any, ...], kwargs: dict[str, Any], place: Place
    ) -> tuple[Hashable, LayerSignature]:
        """What is equal for calls that run the same statements, and what the call is given.

        Raises:
            UnlikeError: see ``LayerSignature``.
        """
        signature = LayerSignature(self.tracer, self.code, path)
        with torch._C.DisableTorchFunction():  # what is looked at is no call of the user's
            return (signature.of_arguments(args, kwargs), signature.of_layer(module), place.line), signature

    def module_at(self, path: str) -> nn.Module:
        """A module of the model."""
        if path not in self.modules:  # another name of one, or a new one
            self.modules[path] = self.tracer.root.get_submodule(path)
        return self.modules[path]

    def _state(self) -> tuple[Any, ...]:
        """How much there is of what a layer that only computes adds nothing to."""
        tracer = self.tracer
        answers, writes, recorder = tracer.answers, tracer.writes, tracer.recorder
        asked = answers.of_state, answers.of_gradients, answers.of_memory
        constants = [item for item in tracer.constants.values() if not isinstance(item, FloatPart)]
        met = constants, tracer.unhooked, tracer.rejected, tracer.submodule_paths or {}, tracer.settings.versions
        known: tuple[Sized, ...] = (*asked, *met, writes.pending, writes.replaced, recorder.troubles)
        return outside_gradients(), *map(len, known)

    def _only_computes(self, made: LayerRecording, kept: Collection[int]) -> bool:
        """Whether all that a call left are operations on what it was given, on what it made and on what is its own.

        Args:
            made: what it left.
            kept: ids of containers that its result does not have a part in: others hold them too.
        """
        own = {*made.inputs, *made.nodes}
        given = {info(node).storage for node in made.inputs} - {0}
        by_name = {node.name: info(node) for node in made.nodes}
        if any(fact.kind not in _SAME_FOR_ALL and fact.handled not in _HANDLED for fact in made.facts):
            return False
        if not own.issuperset(node for node, _ in made.questions):
            return False
        if any(name not in by_name for name, *_ in made.checked):  # an input that no layer before asked for
            return False
        for node in made.nodes:
            name = name_of(node.target)
            if name in RANDOM or name in DATA_SHAPED or node.target in UNWRITTEN or node.op == "placeholder":
                return False
            if node in self.tracer.answers.caught:
                return False
            if node.op == "call_module" and not self._may_repeat(node, made):
                return False
            if any(source not in own and source.op != "get_attr" for source in node.all_input_nodes):
                return False
            for changed in info(node).mutates:
                if (
                    made.parts
                    or changed not in by_name
                    or by_name[changed].storage in given
                    or _is_attribute(changed, made.nodes)
                ):
                    return False
        return _is_made_of(made.result, own, kept)

    def _may_repeat(self, call: fx.Node, made: LayerRecording) -> bool:
        """Whether calling a module, or a part, may be recorded again."""
        part = made.parts.get(str(call.target))
        return not runs_user_code(self.module_at(str(call.target))) if part is None else part.repeats

    def _record_again(self, known: LayerRecording, place: Place, given: dict[fx.Node, ValueProxy]) -> Any:
        """Record what a call left, in another place, on other values.

        Raises:
            UnlikeError: it gives something of another shape, or fails on these values; nothing is recorded.
        """
        if self._asks_first(known, given):
            raise UnlikeError
        try:
            if known not in self._steps:
                self._steps[known] = LayerSteps(known, self.module_at)
            result = RecordAgain(self.tracer, known, self._steps[known], place, given).run()
        except UnlikeError:
            self.paused = True
            raise
        self.used = True
        return result

    def _asks_first(self, known: LayerRecording, given: Collection[fx.Node]) -> bool:
        """Whether a question about what a call is given would be the first, for an input or for that itself."""
        if not known.asked:
            return False
        ranks, dtypes, answers = self.tracer.ranks, self.tracer.dtypes, self.tracer.answers
        by_rank = known.decided_by(RANK, ranks.operands_of)
        by_dtype = known.decided_by(DTYPE, dtypes.operands_of)
        by_value = known.decided_by(VALUE, lambda node: ())
        for before, node in zip(known.inputs, given, strict=True):
            if before is node:
                continue
            if before in by_value or (before in by_rank and ranks.has_unasked(node)):
                return True
            if before in by_dtype and not all(map(answers.checks.is_dtype_checked, dtypes.inputs_of(node))):
                return True
        return False


def _is_attribute(name: str, nodes: list[fx.Node]) -> bool:
    """Whether a node with a name reads a parameter or buffer, or a view of one is changed in its place."""
    changed = next(node for node in nodes if node.name == name)
    owned = {info(node).storage for node in nodes if node.op == "get_attr"}
    return info(changed).storage in owned


def _is_made_of(result: Any, nodes: Collection[fx.Node], kept: Collection[int]) -> bool:
    """Whether a result is values of some nodes, literals, and tuples, and lists and dictionaries made anew, of them."""
    if isinstance(result, ValueProxy):
        return result.node in nodes and not result.from_part and result.parts_of is None
    if type(result) in (tuple, list, dict):
        items = result.values() if type(result) is dict else result
        is_new = type(result) is tuple or id(result) not in kept
        return is_new and all(_is_made_of(item, nodes, kept) for item in items)
    return type(result) in _LITERALS
