"""The tracer: ``torch.fx.Tracer`` that runs every operation on the example while it records it."""

from __future__ import annotations

import functools
import operator
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxquant.capture.answers import Answers
from fxquant.capture.attribute_writes import Arrays, AttributeWrites, changed_container, changed_tensors
from fxquant.capture.call_part import call_whole, is_of_part
from fxquant.capture.compared_objects import check_objects
from fxquant.capture.cut_function import Cut
from fxquant.capture.cut_gradients import outside_gradients, with_gradients_cut
from fxquant.capture.describe_node import describe_node, name_after_module
from fxquant.capture.dtypes import Dtypes
from fxquant.capture.end_early import EndedEarlyError
from fxquant.capture.facts import RECORDED, FactKind
from fxquant.capture.given_containers import GivenContainers
from fxquant.capture.gradient_hooks import (
    GRADIENT_HOOKS,
    asks_for_gradients,
    hook_on_tensor,
    look_at_gradient_hooks,
    without_gradient_hooks,
)
from fxquant.capture.inputs import BoundInputs
from fxquant.capture.levels import depends_of, is_fixed
from fxquant.capture.lower_arguments import ArgumentLowering
from fxquant.capture.matched import type_for
from fxquant.capture.module_scope import ModuleScope
from fxquant.capture.module_views import ModuleViews
from fxquant.capture.own_thread import OwnThread
from fxquant.capture.part_counts import apart
from fxquant.capture.placeholders import placeholder
from fxquant.capture.proxy import ValueProxy
from fxquant.capture.ranks import Ranks
from fxquant.capture.record_calls import record_call, record_factory
from fxquant.capture.recorder import Recorder
from fxquant.capture.register_module import free_name, register, register_unknown
from fxquant.capture.repeated_layers import RepeatedLayers
from fxquant.capture.run_hooks import call_between_hooks, has_hooks
from fxquant.capture.run_operation import run_operation
from fxquant.capture.source import user_line
from fxquant.capture.structures import holds_proxy, leaves, unwrap
from fxquant.capture.stubs import is_border
from fxquant.capture.torch_mode import record_torch
from fxquant.capture.trace_settings import TraceSettings
from fxquant.ir.checks import CHECKS, type_name
from fxquant.ir.float_part import FloatPart, runs_user_code
from fxquant.ir.graph import Graph
from fxquant.ir.meta import qualified_name
from fxquant.ir.walk_modules import Inventory
from fxquant.ir.write_back import WRITES
from fxquant.ops import catalogue

_HOOKED = "its operations are recorded around the module"
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_ITEMS = (operator.getitem, operator.contains, operator.setitem, operator.delitem)
_READS_CONTAINER = (*_ITEMS, getattr, hasattr, len, type_name, *CHECKS, *WRITES)


class ValueTracer(OwnThread, fx.Tracer):
    """Records a graph and its values at once.

    Args:
        inputs: bound example inputs; their tensors are used as they are, so pass copies.
        settings: how to trace.

    Attributes:
        recorder: what was met during the trace.
        answers: what proxies are answered with.
        ranks, dtypes: what decides how many dimensions tensors have, and their dtypes.
        constants: what was put on the root during the trace because nodes refer to it, by name.
        unhooked: paths of modules whose hooks became part of the graph.
        precision: of a model in half precision, until it returns.
        rejected: statements kept whole for the sake of sizes, on whose results branches depend.
        views: modules as parts see them.
        layers: those that repeat.
        passing: ids of modules without parameters that forward made.
        writes: attributes that forward set.
        fresh: tensors that forward made and that are no values of the graph, by id.
        given: containers among the inputs.
        result: what the model gave on the example.
    """

    proxy_buffer_attributes = True
    scope: ModuleScope
    _held: Inventory

    def __init__(self, inputs: BoundInputs, settings: TraceSettings) -> None:
        super().__init__()
        self.inputs, self.settings = inputs, settings
        self.recorder = Recorder(self._trace_into.__code__)
        self.answers = Answers(self)
        self.constants: dict[str, Any] = {}
        self.unhooked: set[str] = set()
        self.precision = settings.precision
        self.rejected: list[Cut] = []
        self.fresh: dict[int, Tensor] = {}
        self.given = GivenContainers()
        self.result: Any = None
        self.lowering = ArgumentLowering(self)
        self.ranks = Ranks(self)
        self.dtypes = Dtypes(self.ranks.may_have_another_dtype)
        self._keep_containers = False
        self._written: set[int] = set()
        self._names_used: Counter[str] = Counter()
        self.writes = AttributeWrites(self)
        self.views = ModuleViews()
        self.layers = RepeatedLayers(self)
        self.passing: set[int] = set()

    # -- what fx asks of a tracer -----------------------------------------------------------------

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Leaves: what the user named, what must stay a module (batch norm, dropout), recurrent layers, stubs."""
        if self.is_float_leaf(m, module_qualified_name):
            return True
        if id(m) in self.passing and not isinstance(m, (*_RECURRENT, torch.jit.ScriptModule)):
            return False  # its mode is that of a new module, whatever that of the model
        if isinstance(m, (*_RECURRENT, torch.jit.ScriptModule)) or is_border(m):
            return True
        return catalogue.by_module(type(m)) is not None

    def is_float_leaf(self, m: nn.Module, path: str) -> bool:
        """Whether a module is one of those that stay float leaves."""
        return path in self.settings.leaf_names or isinstance(m, self.settings.leaf_classes)

    def trace_all(self, held: Inventory) -> fx.Graph:
        """Record a model; fx gets its forward alone, since it walks through all that a model holds twice."""
        self._held, root = held, held.model
        return self.trace(root if isinstance(root, fx.GraphModule) else type(root).forward)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """Placeholders for exactly the inputs given; containers are rebuilt around proxies."""
        self.graph = Graph(tracer_cls=type(self))
        self.root, self.root_module_name = self._held.model, type(self._held.model).__name__
        self.submodule_paths = {module: path for path, module in self._held.modules}
        self.layers.modules = dict(self._held.modules)
        self.lowering.name_attributes(self._held.tensors)
        self.writes.own_modules = set(map(id, self.submodule_paths))
        self.scope = ModuleScope("", type(self.root))
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for name, how, value in self.inputs.entries:
            proxied = placeholder(self, name, value)
            if how == "keyword":
                kwargs[name] = proxied
            else:
                args.append(proxied)
        check_objects(self, [item for item in leaves((args, kwargs)) if isinstance(item, ValueProxy)])
        return lambda root: self._trace_root(args, kwargs), [self.root]

    def _trace_root(self, args: list[Any], kwargs: dict[str, Any]) -> Any:
        try:
            call: Any = self.root._call_impl
            if not self.settings.whole:
                look_at_gradient_hooks(self, self.root, "")
            with without_gradient_hooks(self.root):
                result = call_whole(self, args, kwargs) if self.settings.whole else call(*args, **kwargs)
        except Exception as error:
            self.recorder.report_error(error)
            return None
        except EndedEarlyError:
            return None
        self.writes.update_buffers()
        self.given.write_back(self)
        self.answers.integers.settle()
        self.result = unwrap(result)
        precision, self.precision = self.precision, None
        result = result if precision is None else precision.narrowed(result)
        try:
            return self.create_arg(result)
        except (TypeError, NotImplementedError) as error:  # what it returns is no value of a graph
            self.recorder.report_error(error)
            return None

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        """Parameters and buffers become ``get_attr`` nodes, one per tensor."""
        if not isinstance(attr_val, Tensor) or self.executing:
            return attr_val
        name = self.lowering.path_of(attr_val)
        if name is None:
            return attr_val
        pending = self.writes.pending.get(name)
        return self.lowering.attribute(name) if pending is None else pending

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Trace into modules that are no leaves; run leaves without recording their insides."""
        if self.executing:
            return forward(*args, **kwargs)
        path = self.path_of_module(m)
        trace = functools.partial(self._call_here, m, path, forward, args, kwargs)
        result = self.layers.call(m, path, args, kwargs, trace)
        if self.settings.marks is not None:
            self.settings.marks.add(path, unwrap(result))
        return result

    def _call_here(
        self, m: nn.Module, path: str, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        record_call(self.recorder, m)
        look_at_gradient_hooks(self, m, path)
        if not self.is_leaf_module(m, path):
            if has_hooks(m) and type(m).__module__.startswith("torch.nn."):
                self.recorder.record(FactKind.MODULE_HOOK, path, _HOOKED)
            return self._trace_into(m, path, forward, args, kwargs)

        def call(*args: Any, **kwargs: Any) -> Any:
            return self.create_proxy("call_module", path, args, kwargs)

        with self.scope.entered(path, m):
            if self.is_float_leaf(m, path) or not has_hooks(m):
                return call(*args, **kwargs)
            self.recorder.record(FactKind.MODULE_HOOK, path, _HOOKED)
            self.unhooked.add(path)
            return call_between_hooks(m, call, args, kwargs)

    def _trace_into(
        self, m: nn.Module, path: str, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Trace the inside of a module; where that fails, say so and go on with what the module computes."""
        self.recorder.modules.append(path)
        try:
            with self.scope.entered(path, m), without_gradient_hooks(m):
                return forward(*args, **kwargs)
        except Exception as error:
            self.recorder.report_error(error)
            return self.create_proxy("call_module", path, args, kwargs)
        finally:
            self.recorder.modules.pop()

    def path_of_module(self, mod: nn.Module) -> str:
        """Path of a module; one made in forward or kept in a plain container is registered on the root."""
        paths = self.submodule_paths
        if paths is not None and mod not in paths:
            register_unknown(self, mod, paths)
        return super().path_of_module(mod)

    def add_module(self, name: str, module: nn.Module) -> str:
        """Register a module that is no module of the user's on the root; returns its name."""
        free = free_name(self.root, name, self._names_used)
        register(self, free, module)
        return free

    def create_arg(self, a: Any) -> Any:
        """Containers of tensors are passed on as containers of nodes, so that consumers see single tensors."""
        if isinstance(a, ValueProxy):
            a = with_gradients_cut(self, a, self._written)
            expand = type(a.value) is tuple or (type(a.value) is list and not self.is_whole(a))
            if not expand or self._keep_containers:
                return a.node
            self.answers.lengths.count_parts(a)
            return type(a.value)(self.create_arg(a[index]) for index in range(len(a.value)))
        return self.lowering.lower(a)

    def create_proxy(
        self,
        kind: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        name: str | None = None,
        type_expr: Any = None,
        proxy_factory_fn: Callable[[fx.Node], fx.Proxy] | None = None,
    ) -> Any:
        """Run the operation on the values, record it, and return a proxy that holds the result."""
        if self.precision is not None:
            target, args, kwargs = self.precision.widened(target, args, kwargs)
        self.answers.integers.settle()
        with torch._C.DisableTorchFunction():  # what is looked up here is no call of the user's
            given = leaves((args, kwargs))
            proxies = [leaf for leaf in given if isinstance(leaf, ValueProxy)]
            versions = _versions([leaf.value for leaf in proxies])
            plain = _versions([leaf for leaf in given if not isinstance(leaf, ValueProxy)])
            arrays = Arrays(given)
        try:
            value = run_operation(self, kind, target, args, kwargs)
        except Exception as error:
            self.answers.error(error, proxies)
            raise
        with torch._C.DisableTorchFunction():
            changed = {id(tensor) for tensor, version in versions if tensor._version != version}
            if any(tensor._version != version for tensor, version in plain):
                self.report(FactKind.WRITE_TO_CONSTANT, qualified_name(target))  # it would be read as a constant
            depends, shape_depends = depends_of(kind, target, args, proxies, value)
            if is_fixed(kind, target, args, depends, value):
                return value
            if type(value) in (tuple, list):  # perhaps as many as there are parts in what is given
                for proxy in proxies:
                    self.answers.lengths.count_parts(proxy)
            name = name_after_module(self, kind) or name
            node = self._make_node(kind, target, args, kwargs, name, changed)
            mutates = changed_tensors(target, proxies, changed) or changed_container(kind, target, args)
            mutates = mutates or arrays.changed(self)
            describe_node(self, node, value, mutates)
            self.answers.may_raise(node)
            if type(value) is bool:
                self.answers.identity(value, depends)
        for proxy in proxies:
            if id(proxy.value) in changed:
                proxy.depends = max(proxy.depends, depends)
        made = type_for(value)(node, self, value, depends, shape_depends)
        made.outside_grad = outside_gradients()
        made.parts_of = apart(target, args, kwargs)
        made.from_part = self._runs_user_code(kind, target) or is_of_part(target, proxies, value)
        return made

    def _make_node(
        self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str | None, changed: set[int]
    ) -> fx.Node:
        before = self._keep_containers, self._written
        self._keep_containers = kind == "call_function" and target in _READS_CONTAINER
        self._written = changed
        try:
            node_args, node_kwargs = self.create_arg(args), self.create_arg(kwargs)
        finally:
            self._keep_containers, self._written = before
        return self.create_node(kind, target, node_args, node_kwargs, name)

    def create_node(
        self, kind: str, target: Any, args: Any, kwargs: Any, name: str | None = None, type_expr: Any = None
    ) -> fx.Node:
        """Add a node to the graph; where it comes from is told by ``describe_node``."""
        return self.graph.create_node(kind, target, args, kwargs, name, type_expr)

    # -- answering Python's questions ---------------------------------------------------------------

    def record(self, kind: FactKind, value: Any, handled: str = "") -> None:
        """Write down what the user's line asks for, or does."""
        if not self.executing:
            self.recorder.record(kind, value, handled)

    def report(self, kind: FactKind, value: Any) -> None:
        """Write down what no graph can hold."""
        if not self.executing:
            self.recorder.report(kind, value)

    def asks_for_gradients(self, proxy: ValueProxy) -> bool:
        """See ``gradient_hooks``."""
        return asks_for_gradients(self, proxy)

    def is_whole(self, proxy: ValueProxy) -> bool:
        """Whether a list, text, ... is passed on as one value: how long it is may depend on the inputs."""
        if not isinstance(proxy.value, (tuple, list, dict)):
            return True
        made = proxy.node.op == "call_module" and isinstance(
            getattr(self.root, str(proxy.node.target), None), FloatPart
        )
        return type(proxy.value) is list and (made or proxy.from_part or not _holds_tensors(proxy.value))

    def user_line(self) -> tuple[str, int, str]:
        """File, line number and text of the user's line that is running."""
        return user_line()

    def call_torch(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record a call of a torch function."""
        return record_torch(self, function, args, kwargs)

    def call_method(self, proxy: ValueProxy, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record a method call on a proxy."""
        if isinstance(proxy.value, Tensor) and name in GRADIENT_HOOKS:
            return hook_on_tensor(self)
        if isinstance(proxy.value, Tensor) and name == "detach_":  # changes no values: what reads it later reads a node
            proxy.node = self.create_proxy("call_method", "detach", (proxy,), {}).node
            return proxy
        if isinstance(proxy.value, Tensor) and name in ("item", "tolist"):
            self.record(FactKind.TENSOR_NUMBER, name, RECORDED)
        elif isinstance(proxy.value, Tensor) and name in ("numpy", "__array__"):
            self.record(FactKind.TENSOR_NUMPY, name, RECORDED)
        elif name == "view":
            self.answers.view()
        elif proxy.node.op == "get_attr" and holds_proxy((args, kwargs)):
            record_factory(self, getattr(proxy.value, name), args, kwargs)
        return self.create_proxy("call_method", name, (proxy, *args), kwargs)

    # -- insides ------------------------------------------------------------------------------------

    def _runs_user_code(self, kind: str, target: Any) -> bool:
        return kind == "call_module" and runs_user_code(self.root.get_submodule(target))

    def describe(self, node: fx.Node, value: Any) -> None:
        """Attach what is known of a node that was made without a proxy."""
        describe_node(self, node, value)


def _versions(values: list[Any]) -> list[tuple[Tensor, int]]:
    """The tensors among values, with the numbers of writes into them."""
    return [(value, value._version) for value in values if isinstance(value, Tensor) and not value.is_inference()]


def _holds_tensors(value: list[Any]) -> bool:
    return any(isinstance(item, Tensor) for item in value)
