"""Comparing a captured graph with eager: on the example, other inputs, under two seeds, in both modes, and backward."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fxquant.capture.facts import FactKind
from fxquant.capture.gradient_hooks import has_gradient_hooks
from fxquant.capture.outer_state import OuterState
from fxquant.check.compare import Comparison, Outcome, compare, leaves
from fxquant.check.find_divergence import Divergence, first_difference, first_wrong_value
from fxquant.check.probes import Example, Probe, at, batch_probes, fresh, mask_probes, size_probes, value_probes
from fxquant.check.proof import GuardKey, Proof, ProofRow, answers_of
from fxquant.check.run_model import SEED, GraphSubject, Result, Subject
from fxquant.check.user_frames import Places
from fxquant.errors import FxquantError
from fxquant.ir.stages import CapturedModel
from fxquant.standalone import prepare_float

Capture = Callable[[nn.Module, Any], CapturedModel]

_OTHER_SEEDS = (2, 11)
_CALLS = 8  # of eager, where numbers may be drawn that no seed decides
_MOST_SIZES = 8
_MOST_ATTEMPTS = 32
_MOST_CAPTURES = 1  # for each group of comparisons, of those that hold and of those that do not
# Facts whose answers differ from size to size: whether that matters is asked by capturing at other sizes.
_OF_SIZES = frozenset(
    (FactKind.SIZE, FactKind.SIZE_BRANCH, FactKind.SIZE_LOOP, FactKind.SIZE_CONSTANT, FactKind.FORMAT)
)


class NoGradients(ValueError):
    """No result of a call has a gradient."""


class Prover:
    """Compares a graph with eager.

    Args:
        model: the user's model; not changed.
        example: the example inputs.
        graph: captured on them.
        capture: captures a model anew.
        places: turns frames into places.
        keeps_state: whether the model changes what outlives a call.
        outer: what is outside of the model.
        draws: whether it draws numbers, or reads a clock: then eager may give something else at every call.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Any,
        graph: CapturedModel,
        capture: Capture,
        places: Places,
        keeps_state: bool,
        outer: OuterState,
        draws: bool = False,
    ) -> None:
        self.model = model
        self._draws = draws
        self.example = example
        self.named = Example.of(model, example)
        self.graph = graph
        self.capture = capture
        self.places = places
        self._outer = outer if keeps_state else None
        self.eager = Subject(model, keeps_state or model.training, graph.state.float_dtype, self._outer)
        self.captured = GraphSubject(graph, keeps_state or model.training, self._outer)
        self._keeps_nothing = not keeps_state and not model.training
        self._built_in = any(fact.kind in _OF_SIZES and fact.is_guard for fact in graph.state.facts)
        self._captures: dict[tuple[str, bool], int] = {}
        self.small: Probe | None = None
        self.rows: list[ProofRow] = []
        self.answers: dict[int, dict[GuardKey, frozenset[str]]] = {}

    def prove(self, probes: str | Sequence[Any]) -> Proof:
        """Make all comparisons.

        Args:
            probes: ``auto``; or inputs to compare on, in the form of the example, in the place of those made up.
        """
        self._expected = self.eager.call(self.example)
        calls = (self.eager.call(self.example) for _ in range(_CALLS if self._draws else 0))
        if self._expected.error is None and not all(_judge(self._expected, again).outcome.holds for again in calls):
            detail = "eager gives something else at every call, whatever the seed"
            return Proof((ProofRow("given", "the example", Outcome.SKIPPED, detail),), comparable=False)
        self.compare_on(Probe("example", "the example", self.example), self._expected)
        self.answers[0] = answers_of(self.graph.state.facts)
        if isinstance(probes, str):
            self._compare_automatically()
        else:
            for index, inputs in enumerate(probes):
                self.compare_on(Probe("given", f"probe {index}", inputs))
        self.rows += [self._under_seed(seed) for seed in _OTHER_SEEDS]
        self.rows.append(self._called_twice("the second call", self.example))
        if self._outer is not None:
            other = next(value_probes(self.named)).inputs
            self.rows.append(self._called_twice("a call on other values after the first", other))
        self.rows += self._in_the_other_mode()
        self.rows.append(self._backward())
        return Proof(tuple(self.rows), self.answers)

    # -- inputs -------------------------------------------------------------------------------------

    def compare_on(self, probe: Probe, expected: Result | None = None) -> None:
        """Add the row of one probe, and what a graph captured on it would have built in.

        Args:
            probe: the inputs.
            expected: what eager gives for them, where that is known.
        """
        expected = expected or self.eager.call(probe.inputs)
        if expected.error is not None:
            detail = f"eager does not run: {_one_line(expected.error)}"
            self.rows.append(ProofRow(probe.group, probe.name, Outcome.SKIPPED, detail))
            return
        found = _judge(expected, self.captured.call(probe.inputs))
        asks = self._built_in and probe.group in ("batch", "size", "given")
        key = probe.group, found.outcome.holds
        other = None
        if (asks or not found.outcome.holds) and self._captures.get(key, 0) < _MOST_CAPTURES:
            self._captures[key] = self._captures.get(key, 0) + 1
            other = self._captured_on(probe)
        divergence = self._divergence(other, probe) if not found.outcome.holds else None
        if other is not None:
            self.answers[len(self.rows)] = answers_of(other.state.facts)
        self.rows.append(ProofRow(probe.group, probe.name, found.outcome, found.detail, divergence))

    def _compare_automatically(self) -> None:
        if self.named.is_large:
            self._compare_sizes()
        changed = zip(_probes_of(self.named), _probes_of(self._small_example()), strict=False)
        for probe, small in changed:
            if self.small is None or not self._holds(at(small, self.small)):
                self._compare_if_eager_runs(probe)
        if not self.named.is_large:
            self._compare_sizes()

    def _small_example(self) -> Example:
        return self.named if self.small is None else Example(self.small.inputs, self.named.names)

    def _holds(self, probe: Probe) -> bool:
        """Compare where eager runs; whether the graph is right there."""
        return self._compare_if_eager_runs(probe) and self.rows[-1].outcome.holds

    def _compare_sizes(self) -> None:
        """Other sizes; the smallest one that the graph is right for serves other comparisons of a large example."""
        taken, attempts = 0, 0
        for alternatives in size_probes(self.named):
            for probe in alternatives if taken < _MOST_SIZES else ():
                attempts += 1
                if attempts <= _MOST_ATTEMPTS and self._compare_if_eager_runs(probe):
                    taken += 1
                    self._note_small(probe)
                    break

    def _note_small(self, probe: Probe) -> None:
        known = self.named if self.small is None else Example(self.small.inputs)
        if self.named.is_large and self.rows[-1].outcome.holds and Example(probe.inputs).elements < known.elements:
            self.small = probe

    def _compare_if_eager_runs(self, probe: Probe) -> bool:
        expected = self.eager.call(probe.inputs)
        if expected.error is None:
            self.compare_on(probe, expected)
        return expected.error is None

    def _captured_on(self, probe: Probe) -> CapturedModel | None:
        self._restore()
        try:
            return self.capture(self.model, probe.inputs)
        except Exception:
            return None

    def _restore(self) -> None:
        if self._outer is not None:
            self._outer.restore()

    def _divergence(self, other: CapturedModel | None, probe: Probe) -> Divergence | None:
        if other is not None:
            found = first_difference(self.graph, other)
            if found is not None:
                return found
        graph = self.captured.fresh()
        assert isinstance(graph, CapturedModel)
        return first_wrong_value(graph, self.eager.fresh(), probe.inputs, self.places)

    # -- more than one call -------------------------------------------------------------------------

    def _under_seed(self, seed: int) -> ProofRow:
        skipped = ProofRow("seed", f"seed {seed}", Outcome.SKIPPED, "the result does not depend on it")
        if not self._expected.drew and any(row.detail == skipped.detail for row in self.rows):
            return skipped  # no random state was used, and another seed gave the same
        expected = self.eager.call(self.example, seed)
        if compare(self._expected.value, expected.value).outcome is Outcome.EXACT:
            return skipped
        found = _judge(expected, self.captured.call(self.example, seed))
        return ProofRow("seed", f"seed {seed}", found.outcome, found.detail)

    def _called_twice(self, name: str, second: Any) -> ProofRow:
        if self._keeps_nothing and second is self.example:  # eager gives what it gave, and the graph was called before
            again = _judge(self._expected, self.captured.call(second))
            return ProofRow("state", name, again.outcome, again.detail)
        eager = self.eager.model()
        expected = [self.eager.call_model(eager, inputs) for inputs in (self.example, second)][-1]
        if expected.error is not None:
            return ProofRow("state", name, Outcome.SKIPPED, f"eager does not run: {_one_line(expected.error)}")
        graph = self.captured.model()
        found = [self.captured.call_model(graph, inputs) for inputs in (self.example, second)][-1]
        judged = _judge(expected, found)
        if judged.outcome.holds:
            judged = _compare_state(eager, graph)
        return ProofRow("state", name, judged.outcome, judged.detail)

    def _in_the_other_mode(self) -> Iterator[ProofRow]:
        """The mode that the model is not in, captured there; of a model in training mode, both as QAT has them."""
        training = not self.model.training
        name = "training mode" if training else "eval mode"
        eager = self.eager.fresh().train(training)
        self._restore()
        try:
            other = self.capture(eager, self.example)
        except Exception as error:
            yield ProofRow("mode", name, Outcome.SKIPPED, f"not captured: {_one_line(error)}")
            return
        graph = GraphSubject(other, True, self._outer)
        self._restore()
        inputs = self.example if self.small is None else self.small.inputs
        expected = self.eager.call_model(eager, inputs)
        if expected.error is not None and self.small is not None:  # a batch norm may be left with one value
            inputs, expected = self.example, self.eager.call_model(eager, self.example)
        if expected.error is not None:
            yield ProofRow("mode", name, Outcome.SKIPPED, f"eager does not run: {_one_line(expected.error)}")
            return
        found = _judge(expected, graph.call(inputs))
        yield ProofRow("mode", name, found.outcome, found.detail, required=not training)
        if not training:
            yield from self._as_in_qat(inputs)

    def _as_in_qat(self, inputs: Any) -> Iterator[ProofRow]:
        """What is prepared for QAT with nothing to quantize, in both modes."""
        self._restore()
        try:
            prepared = GraphSubject(prepare_float(self.eager.fresh(), self.example), True, self._outer)
        except Exception as error:
            yield ProofRow("mode", "prepared for QAT", Outcome.FAILS, f"prepare_qat_fx refuses it: {_one_line(error)}")
            return
        for training in (True, False):
            self._restore()
            expected = self.eager.call_model(self.eager.fresh().train(training), inputs)
            if expected.error is None:
                self._restore()
                found = _judge(expected, prepared.call_model(prepared.fresh().train(training), inputs))
                name = f"prepared for QAT, in {'training' if training else 'eval'} mode"
                yield ProofRow("mode", name, found.outcome, found.detail)

    def _backward(self) -> ProofRow:
        name = "gradients"
        inputs = self.example if self.small is None else self.small.inputs
        eager = self.eager.model()
        if not eager.training and any(map(has_gradient_hooks, eager.modules())):
            return ProofRow("gradients", name, Outcome.SKIPPED, "hooks on gradients are left out in eval mode")
        expected = _gradients(eager, self.eager, inputs)
        graph = self.captured.model()  # only now: it sets variables outside the model back
        result = _gradients(graph, self.captured, inputs)
        if isinstance(expected.error, NoGradients):
            same = isinstance(result.error, NoGradients)
            detail = "" if same else "the graph's results have gradients, those of eager have none"
            return ProofRow("gradients", name, Outcome.EXACT if same else Outcome.DIFFERS, detail)
        if expected.error is not None:
            return ProofRow("gradients", name, Outcome.SKIPPED, f"eager has none: {_one_line(expected.error)}")
        if result.error is None:
            result = Result(_by_names_of(eager, graph, result.value))
        found = _judge(expected, result)
        return ProofRow("gradients", name, found.outcome, found.detail)


def _probes_of(example: Example) -> Iterator[Probe]:
    return itertools.chain(batch_probes(example), value_probes(example), mask_probes(example))


def _judge(expected: Result, found: Result) -> Comparison:
    if found.error is None:
        return compare(expected.value, found.value)
    refused = isinstance(found.error, FxquantError)
    return Comparison(Outcome.REFUSED if refused else Outcome.FAILS, _one_line(found.error))


def _compare_state(eager: nn.Module, graph: nn.Module) -> Comparison:
    """Compare the buffers that both have."""
    first, second = dict(eager.named_buffers()), dict(graph.named_buffers())
    common = first.keys() & second.keys()
    found = compare({name: first[name] for name in common}, {name: second[name] for name in common})
    return Comparison(found.outcome, found.detail.replace("output", "buffer"))


def _gradients(model: nn.Module, subject: Subject, inputs: Any) -> Result:
    """Gradients of the magnitudes of all results, by parameter."""
    prepared = fresh(inputs)
    with torch.enable_grad():
        result = subject.call_model(model, prepared, SEED, gradients=True)
        if result.error is not None:
            return result
        tensors = [item for _, item in leaves(result.value) if isinstance(item, Tensor) and item.requires_grad]
        if not tensors:
            return Result(error=NoGradients("no result has a gradient"))
        try:
            torch.autograd.backward([item.abs().double().sum() for item in tensors])
        except Exception as error:  # higher-order operators raise errors of any kind
            return Result(error=error)
    found = {name: item.grad if item.is_leaf else None for name, item in model.named_parameters()}
    for item in model.parameters():
        if item.is_leaf:
            item.grad = None
    return Result(found)


def _by_names_of(eager: nn.Module, graph: nn.Module, gradients: dict[str, Any]) -> dict[str, Any]:
    """The graph's gradients by eager's names; parts that run as Python hold parameters under names of their own.

    Those are known by their values, and where several have the same by the end of their names.
    """
    known = dict(eager.named_parameters())
    others: dict[tuple[Any, ...], list[str]] = {}
    for name, parameter in graph.named_parameters():
        if name not in known:
            others.setdefault(_look_of(parameter), []).append(name)

    def alike(name: str, other: str) -> int:
        steps = zip(reversed(name.split(".")), reversed(other.split(".")), strict=False)
        return len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], steps)))

    found = {}
    for name, parameter in known.items():
        if name in gradients:
            found[name] = gradients[name]
            continue
        same = [other for other in others.get(_look_of(parameter), []) if alike(name, other)]
        best = max(same, key=lambda other: alike(name, other), default=None)
        found[name] = None if best is None else gradients[best]
        if best is not None:
            others[_look_of(parameter)].remove(best)
    return found


def _look_of(parameter: Tensor) -> tuple[Any, ...]:
    return tuple(parameter.shape), float(parameter.detach().double().nan_to_num().square().sum())


def _one_line(error: Exception) -> str:
    if isinstance(error, FxquantError):
        return " ".join(error.message.split())[:200]
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}"
