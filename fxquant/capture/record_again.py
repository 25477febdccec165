"""Recording what a call of a layer left once more, for another call, without the layer's Python."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from fxquant.capture.describe_node import Descriptions
from fxquant.capture.layer_recording import LayerRecording, Place
from fxquant.capture.layer_signature import UnlikeError
from fxquant.capture.layer_steps import LayerSteps, Step
from fxquant.capture.matched import type_for
from fxquant.capture.proxy import ValueProxy
from fxquant.capture.run_operation import without_gradients
from fxquant.ir.edit import erase_after
from fxquant.ir.meta import is_described_by

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer


class RecordAgain:
    """One repetition of a call.

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
        self._paths = steps.paths_at(place)
        self._path_of = functools.partial(known.place.moved, new=place)
        self._descriptions = Descriptions()

    def run(self) -> Any:
        """Record it; returns what the call returns.

        Raises:
            UnlikeError: it gives something of another shape, or fails on these values; nothing is recorded.
        """
        tracer, known, places = self._tracer, self._known, self._steps.places
        last = tracer.graph._root._prev
        try:
            with tracer.nothing_recorded(), without_gradients(), torch._C.DisableTorchFunction():
                for step in self._steps.steps:
                    if step.node.op == "get_attr":
                        self._attribute(step)
                    else:
                        self._operation(step)
                self._descriptions.attach()
        except Exception as error:  # whatever an operation raises
            self._descriptions.attach()
            erase_after(tracer.graph, last)
            raise UnlikeError from error
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
        for node, trouble in known.questions:
            tracer.answers.checks.ask_sizes(self._nodes[places[node]], known.place.moved_trouble(trouble, self._place))
        return result

    def _operation(self, step: Step) -> None:
        """Run an operation on the values in the place of its own, and record it."""
        tracer, values, nodes, node = self._tracer, self._values, self._nodes, step.node
        if step.known.mutates:
            self._descriptions.attach()
        target: Any = node.target
        args = step.args(values)
        kwargs = dict(zip(step.keywords, step.kwargs(values), strict=True)) if step.keywords else {}
        if node.op == "call_module":
            target = self._paths[step.target]
            value = tracer.layers.module_at(target)(*args, **kwargs)
        elif node.op == "call_method":
            value = getattr(args[0], target)(*args[1:], **kwargs)
        else:
            value = target(*args, **kwargs)
        if not is_described_by(value, step.known.value):
            raise UnlikeError
        name = self._paths[step.path].replace(".", "_") if step.named else None
        kwargs = dict(zip(step.keywords, step.kwargs(nodes), strict=True)) if step.keywords else {}
        again = tracer.create_node(node.op, target, step.args(nodes), kwargs, name)
        self._describe(step, again, value)
        nodes.append(again)
        values.append(value)

    def _attribute(self, step: Step) -> None:
        """The node of a parameter or buffer in the place of another, and its value."""
        path = self._paths[step.target]
        if path in self._tracer.writes.pending:
            raise UnlikeError
        node, value = self._tracer.lowering.read(path, functools.partial(self._describe, step))
        self._nodes.append(node)
        self._values.append(value)

    def _describe(self, step: Step, made: fx.Node, value: Any) -> None:
        known, nodes = step.known, self._nodes
        changed = tuple([nodes[index].name for index in step.changes]) if step.changes else ()
        elements = nodes[step.elements] if step.elements >= 0 else None
        path, call = self._paths[step.path], known.origin.call + self._calls
        self._descriptions.add(made, known, value, path, call, changed, elements)

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
