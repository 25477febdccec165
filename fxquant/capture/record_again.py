"""Recording what a call of a layer left once more, for another call, without the layer's Python."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch.fx.node import map_arg

from fxquant.capture.describe_node import Descriptions
from fxquant.capture.layer_recording import LayerRecording, Place
from fxquant.capture.layer_signature import UnlikeError
from fxquant.capture.matched import type_for
from fxquant.capture.proxy import ValueProxy
from fxquant.capture.run_operation import without_gradients
from fxquant.ir.edit import erase_after
from fxquant.ir.meta import info, is_described_by

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer


class RecordAgain:
    """One repetition of a call.

    Args:
        tracer: of the trace.
        known: what the call left.
        place: of the other call.
        given: nodes and proxies of what that one is given, in the order of ``known.inputs``.
    """

    def __init__(
        self, tracer: ValueTracer, known: LayerRecording, place: Place, given: dict[fx.Node, ValueProxy]
    ) -> None:
        self._tracer = tracer
        self._known = known
        self._place = place
        self._given = given
        self._nodes = dict(zip(known.inputs, given, strict=True))
        self._values = {node: proxy.value for node, proxy in zip(known.inputs, given.values(), strict=True)}
        self._paths: dict[str, str] = {}
        self._descriptions = Descriptions()

    def run(self) -> Any:
        """Record it; returns what the call returns.

        Raises:
            UnlikeError: it gives something of another shape, or fails on these values; nothing is recorded.
        """
        tracer, known = self._tracer, self._known
        last = tracer.graph._root._prev
        try:
            with tracer.nothing_recorded(), without_gradients(), torch._C.DisableTorchFunction():
                for node in known.nodes:
                    if node.op == "get_attr":
                        self._attribute(node)
                    else:
                        self._operation(node)
                self._descriptions.attach()
        except Exception as error:  # whatever an operation raises
            self._descriptions.attach()
            erase_after(tracer.graph, last)
            raise UnlikeError from error
        tracer.scope.calls += known.calls
        for fact in known.facts:
            tracer.recorder.facts[replace(fact, module_path=self._moved(fact.module_path))] = None
        names = {node.name: again.name for node, again in self._nodes.items()}
        tracer.answers.checked.update({(names[name], *rest): None for name, *rest in known.checked})
        asked = tracer.answers.asked
        asked += [(question, self._nodes[node]) for question, node in known.asked if node in self._nodes]
        if known.decides_ranks is None:
            known.decides_ranks = any(map(tracer.ranks.decides, known.nodes))
        if not known.decides_ranks:
            tracer.ranks.settle(self._nodes.values(), self._given)
        return self._result(known.result, {})

    def _operation(self, node: fx.Node) -> None:
        """Run an operation on the values in the place of its own, and record it."""
        tracer, known, values, nodes = self._tracer, info(node), self._values, self._nodes
        if known.mutates:
            self._descriptions.attach()
        for source in node.all_input_nodes:
            if source not in nodes:
                self._attribute(source)
        target: Any = node.target
        args: Any = map_arg(node.args, values.__getitem__)
        kwargs: Any = map_arg(node.kwargs, values.__getitem__) if node.kwargs else {}
        if node.op == "call_module":
            target = self._moved(target)
            value = tracer.layers.module_at(target)(*args, **kwargs)
        elif node.op == "call_method":
            value = getattr(args[0], target)(*args[1:], **kwargs)
        else:
            value = target(*args, **kwargs)
        if not is_described_by(value, known.value):
            raise UnlikeError
        path = self._moved(known.origin.module_path)
        name = path.replace(".", "_") if self._is_named_after_module(node) else None
        again = tracer.create_node(
            node.op, target, map_arg(node.args, nodes.__getitem__), map_arg(node.kwargs, nodes.__getitem__), name
        )
        nodes[node], values[node] = again, value
        self._describe(node, again, value, path)

    def _attribute(self, node: fx.Node) -> None:
        """The node of a parameter or buffer in the place of another, and its value."""
        path = self._moved(str(node.target))
        if path in self._tracer.writes.pending:
            raise UnlikeError

        def describe(made: fx.Node, value: Any) -> None:
            self._describe(node, made, value, self._moved(info(node).origin.module_path))

        self._nodes[node], self._values[node] = self._tracer.lowering.read(path, describe)

    def _describe(self, before: fx.Node, made: fx.Node, value: Any, path: str) -> None:
        known, nodes = info(before), self._nodes
        changed = tuple(nodes[node].name for node in nodes if node.name in known.mutates) if known.mutates else ()
        call = known.origin.call - self._known.place.calls + self._place.calls
        self._descriptions.add(made, known, value, path, call, changed)

    def _moved(self, path: str) -> str:
        """What a path in the one layer is in the other."""
        if path not in self._paths:
            self._paths[path] = self._known.place.moved(path, self._place)
        return self._paths[path]

    def _is_named_after_module(self, node: fx.Node) -> bool:
        """Whether it is an operation of a simple torch.nn module."""
        named = self._known.named
        if node not in named:
            path, own = info(node).origin.module_path, info(node).origin.from_torch_module and node.op != "call_module"
            named[node] = own and bool(path) and not self._tracer.root.get_submodule(path)._modules
        return named[node]

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
        node, value = self._nodes[proxy.node], self._values[proxy.node]
        if node in self._given:
            return self._given[node]
        again = type_for(value)(node, self._tracer, value, proxy.depends, proxy.shape_depends)
        again.outside_grad = proxy.outside_grad
        return again
