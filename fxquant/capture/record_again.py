"""Recording what a call of a layer left once more, for another call, without the layer's Python."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from fxquant.capture import repeated_parts
from fxquant.capture.describe_node import spelling
from fxquant.capture.layer_recording import LayerRecording, Place, RepeatedCall
from fxquant.capture.layer_signature import UnlikeError
from fxquant.capture.layer_steps import Batch, LayerSteps, Step
from fxquant.capture.matched import type_for
from fxquant.capture.proxy import ValueProxy
from fxquant.capture.run_operation import without_gradients
from fxquant.ir.edit import nodes_after
from fxquant.ir.float_part import FloatPart
from fxquant.ir.meta import is_described_by, largest_magnitudes, storage_of

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer


class RecordAgain:
    """One repetition of a call: all of its values first, then its nodes.

    Args:
        tracer: of the trace.
        known: what the call left. steps: how it is done again.
        place: of the other call.
        given: nodes and proxies of what that one is given, in the order of ``known.inputs``.
    """

    def __init__(
        self,
        tracer: ValueTracer,
        known: LayerRecording,
        steps: LayerSteps,
        place: Place,
        given: dict[fx.Node, ValueProxy],
    ) -> None:
        self._tracer = tracer
        self._known = known
        self._steps = steps
        self._place = place
        self._calls = place.calls - known.place.calls
        self._given = given
        self._nodes = [*given, *steps.constants]
        self._values = [*(proxy.value for proxy in given.values()), *steps.constants]
        self._largest: list[float] = []
        self._parts: dict[int, FloatPart] = {}
        self._paths = steps.paths_at(place)
        self._path_of = functools.partial(known.place.moved, new=place)

    def run(self) -> Any:
        """Record it; returns what the call returns.

        Raises:
            UnlikeError: it gives something of another shape, or fails on these values; nothing is recorded.
        """
        tracer, known, places = self._tracer, self._known, self._steps.places
        before = tracer.graph._root._prev
        with tracer.nothing_recorded(), without_gradients(), torch._C.DisableTorchFunction():
            try:
                self._compute()
            except Exception as error:  # whatever an operation raises
                raise UnlikeError from error
            self._make_nodes()
        tracer.scope.calls += known.calls
        for fact in known.facts:
            tracer.recorder.facts[replace(fact, module_path=self._path_of(fact.module_path))] = None
        if known.checked:
            names = {node.name: self._nodes[index].name for node, index in places.items()}
            tracer.answers.checks.made.update({(names[name], *rest): None for name, *rest in known.checked})
        asked = tracer.answers.checks.asked
        asked += [(question, self._nodes[places[node]]) for question, node in known.asked if node in places]
        if known.decides_ranks is None:
            known.decides_ranks = any(map(tracer.ranks.decides, known.nodes))
        if not known.decides_ranks:
            tracer.ranks.settle((self._nodes[index] for index in places.values()), self._given)
        result = self._result(known.result, {})
        made = self._nodes[self._steps.behind :]
        # No parameter or buffer was read before; and at other sizes, parts of other layers may do something else.
        if not self._parts and nodes_after(before) == made:
            tracer.layers.repeated.append(RepeatedCall(known, list(self._given), made))
        for node, trouble in known.questions:
            tracer.answers.checks.ask_sizes(self._nodes[places[node]], known.place.moved_trouble(trouble, self._place))
        return result

    def _compute(self) -> None:
        """Run the operations on the values in the place of their own.

        Raises:
            UnlikeError: one gives something of another shape.
            Exception: whatever one raises.
        """
        tracer, values, paths, steps = self._tracer, self._values, self._paths, self._steps
        batches = iter(steps.batches)
        for step in steps.steps:
            if step.op == "get_attr":
                if paths[step.target] in tracer.writes.pending:
                    raise UnlikeError
                values.append(tracer.lowering.value_at(paths[step.target]))
                continue
            if step.changes:
                self._measure(next(batches))
            args = step.args(values)
            kwargs = dict(zip(step.keywords, step.kwargs(values), strict=True)) if step.keywords else {}
            if step.op == "call_module":
                value = self._module(step)(*args, **kwargs)
            elif step.op == "call_method":
                value = getattr(args[0], step.call)(*args[1:], **kwargs)
            else:
                value = step.call(*args, **kwargs)
            if not is_described_by(value, step.known.value):
                raise UnlikeError
            values.append(value)
        self._measure(next(batches))

    def _module(self, step: Step) -> nn.Module:
        """The module that is called: the layer's, or a part of its own."""
        if step.part is None:
            return self._tracer.layers.module_at(self._paths[step.target])
        part = self._parts[step.target] = repeated_parts.again(self._tracer, step.part, self._path_of)
        return part

    def _measure(self, batch: Batch) -> None:
        """Find the largest magnitudes of what was computed, before something is written into it."""
        found = largest_magnitudes([self._values[place] for place in batch.places])
        self._largest += [found[index] if index >= 0 else 0.0 for index in batch.which]

    def _make_nodes(self) -> None:
        """Record the operations, with what is known of them."""
        graph, nodes, paths = self._tracer.graph, self._nodes, self._paths
        titles = [path.replace(".", "_") for path in paths]
        values = self._values[self._steps.behind :]
        for step, value, largest in zip(self._steps.steps, values, self._largest, strict=True):
            if step.op == "get_attr":
                describe = functools.partial(self._describe, step, largest)
                nodes.append(self._tracer.lowering.read(paths[step.target], describe)[0])
                continue
            target = self._called(step) if step.op == "call_module" else step.call
            kwargs = dict(zip(step.keywords, step.kwargs(nodes), strict=True)) if step.keywords else {}
            made = graph.create_node(
                step.op, target, step.args(nodes), kwargs, titles[step.path] if step.named else None
            )
            self._describe(step, largest, made, value)
            nodes.append(made)

    def _called(self, step: Step) -> str:
        """What the module that is called is registered as."""
        part = self._parts.get(step.target)
        return self._paths[step.target] if part is None else self._tracer.add_module(part.label, part)

    def _describe(self, step: Step, largest: float, made: fx.Node, value: Any) -> None:
        changed = tuple([self._nodes[index].name for index in step.changes]) if step.changes else ()
        how = spelling(made) if step.target >= 0 else step.known.origin.spelling
        call = step.known.origin.call + self._calls
        step.describes.attach(made, how, self._paths[step.path], call, changed, storage_of(value), largest)

    def _result(self, result: Any, made: dict[int, Any]) -> Any:
        """What stands in the place of a result, or of a part of it; ``made`` has what stands for other parts, by id."""
        if id(result) not in made:
            if isinstance(result, ValueProxy):
                made[id(result)] = self._proxy(result)
            elif isinstance(result, (tuple, list)):
                made[id(result)] = type(result)(self._result(item, made) for item in result)
            elif isinstance(result, dict):
                made[id(result)] = {key: self._result(item, made) for key, item in result.items()}
            else:
                return result
        return made[id(result)]

    def _proxy(self, proxy: ValueProxy) -> ValueProxy:
        """The proxy that stands in the place of another one."""
        place = self._steps.places[proxy.node]
        node, value = self._nodes[place], self._values[place]
        if node in self._given:
            return self._given[node]
        again = type_for(value)(node, self._tracer, value, proxy.depends, proxy.shape_depends)
        again.outside_grad = proxy.outside_grad
        return again
