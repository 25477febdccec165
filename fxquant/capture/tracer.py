"""The tracer: ``torch.fx.Tracer`` that runs every operation on the example while it records it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.proxy import Scope, ScopeContextManager

from fxquant.capture.attention import AttentionCall, attend
from fxquant.capture.guard import Guard
from fxquant.capture.inputs import BoundInputs, map_leaves
from fxquant.capture.proxy import ValueProxy, unwrap
from fxquant.capture.source import user_line
from fxquant.capture.stubs import is_border
from fxquant.errors import CaptureError
from fxquant.ir.checks import require_equal
from fxquant.ir.meta import (
    NodeInfo,
    Origin,
    describe_value,
    info,
    largest_magnitude,
    qualified_name,
    qualified_type,
    set_info,
)
from fxquant.ops import catalogue

_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_READS_CONTAINER = (operator.getitem, getattr)
_PLAIN = (int, float, bool, str, type(None))


class ValueTracer(fx.Tracer):
    """Records a graph and its values at once.

    Args:
        inputs: bound example inputs; their tensors are used as they are, so pass copies.
        leaf_names: module paths that stay float leaves.
        leaf_classes: module classes that stay float leaves.

    Attributes:
        guards: what Python asked during the trace, in order, without repeats.
        executing: True while a recorded operation runs on its values; nothing is recorded then.
    """

    proxy_buffer_attributes = True

    def __init__(
        self,
        inputs: BoundInputs,
        leaf_names: Collection[str] = (),
        leaf_classes: Collection[type[nn.Module]] = (),
    ) -> None:
        super().__init__()
        self.inputs = inputs
        self.leaf_names = frozenset(leaf_names)
        self.leaf_classes = tuple(leaf_classes)
        self.guards: dict[Guard, None] = {}
        self.executing = False
        self._keep_containers = False
        self._attribute_names: dict[int, str] = {}

    # -- what fx asks of a tracer -----------------------------------------------------------------

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Leaves: what the user named, what must stay a module (batch norm, dropout), recurrent layers, stubs."""
        if module_qualified_name in self.leaf_names or isinstance(m, self.leaf_classes):
            return True
        if isinstance(m, (*_RECURRENT, torch.jit.ScriptModule)) or is_border(m):
            return True
        return catalogue.by_module(type(m)) is not None

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """Placeholders for exactly the inputs given; containers are rebuilt around proxies."""
        named = [*self.root.named_parameters(), *self.root.named_buffers()]
        self._attribute_names = {id(tensor): name for name, tensor in reversed(named)}
        self.scope = Scope("", type(self.root))
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for name, how, value in self.inputs.entries:
            proxied = self._placeholder(name, value)
            if how == "keyword":
                kwargs[name] = proxied
            else:
                args.append(proxied)
        return lambda root: root._call_impl(*args, **kwargs), [self.root]

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        """Parameters and buffers become ``get_attr`` nodes, one per tensor."""
        if self.executing or not isinstance(attr_val, Tensor):
            return attr_val
        name = self._attribute_names.get(id(attr_val))
        if name is None:
            return attr_val
        if name not in parameter_proxy_cache:
            parameter_proxy_cache[name] = self.create_proxy("get_attr", name, (), {})
        return parameter_proxy_cache[name]

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Trace into modules that are no leaves; run leaves without recording their insides."""
        if self.executing:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def path_of_module(self, mod: nn.Module) -> str:
        """Path of a module; one made in forward or kept in a plain container is registered on the root."""
        paths = self.submodule_paths
        if paths is not None and mod not in paths:
            name = f"_unregistered_{len(paths)}"
            self.root.add_module(name, mod)
            paths[mod] = name
            named = [*mod.named_parameters(name), *mod.named_buffers(name)]
            self._attribute_names.update({id(tensor): path for path, tensor in named})
        return super().path_of_module(mod)

    def create_arg(self, a: Any) -> Any:
        """Containers of tensors are passed on as containers of nodes, so that consumers see single tensors."""
        if isinstance(a, ValueProxy):
            if type(a.value) not in (tuple, list) or self._keep_containers:
                return a.node
            return type(a.value)(self.create_arg(a[index]) for index in range(len(a.value)))  # type: ignore[index]
        if type(a) in _PLAIN:  # spares torch.fx's search for what a value might be
            return a
        made = super().create_arg(a)
        if isinstance(a, Tensor) and isinstance(made, fx.Node) and info(made).value is None:
            set_info(made, self._info(made, a, ()))  # a tensor that is no parameter became an attribute
        return made

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
        if target is F.multi_head_attention_forward:
            return attend(AttentionCall(*args, **kwargs), self._linear)
        versions = [(tensor, tensor._version) for tensor in _tensors((args, kwargs))]
        plain = [(tensor, tensor._version) for tensor in _plain_tensors((args, kwargs))]
        value = self._run(kind, target, args, kwargs)
        changed = {id(tensor) for tensor, version in versions if tensor._version != version}
        if any(tensor._version != version for tensor, version in plain):
            self._refuse_write(target)
        with self._containers_kept(kind == "call_function" and target in _READS_CONTAINER):
            node_args, node_kwargs = self.create_arg(args), self.create_arg(kwargs)
        node = self.create_node(kind, target, node_args, node_kwargs, self._name(kind) or name, type_expr)
        set_info(node, self._info(node, value, _changed_names((args, kwargs), changed)))
        return ValueProxy(node, self, value)

    # -- answering Python's questions ---------------------------------------------------------------

    def record(self, kind: str, value: Any) -> None:
        """Remember that Python asked for a fact of the example."""
        if not self.executing:
            file, line, code = user_line()
            self.guards[Guard(kind, file, line, code, self.scope.module_path, str(value))] = None

    def _refuse_write(self, target: Any) -> NoReturn:
        """Refuse to change a tensor that is no value of the graph: what is read from it later would be a constant."""
        file, line, code = user_line()
        raise CaptureError(
            f"`{code}` writes into a tensor that is neither an input, nor a buffer, nor made in forward",
            op=qualified_name(target),
            module_path=self.scope.module_path,
            source=f"{file}:{line}",
            remedy="register the tensor as a buffer, or make it in forward: torch.zeros(...), x.new_zeros(...)",
        )

    def tensor_branch(self, proxy: ValueProxy, what: str) -> NoReturn:
        """Refuse to build a tensor's value into the graph."""
        file, line, code = user_line()
        raise CaptureError(
            f"`{code}` {what} the value of a tensor: the graph would keep the example's answer for every input",
            op=qualified_name(proxy.node.target),
            module_path=self.scope.module_path,
            source=f"{file}:{line}",
            remedy="use torch.where, or keep the module float: "
            f"PrepareCustomConfig().set_non_traceable_module_names([{self.scope.module_path!r}])",
        )

    # -- insides ------------------------------------------------------------------------------------

    def _run(self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        was, self.executing = self.executing, True
        try:
            if kind == "get_attr":
                return operator.attrgetter(target)(self.root)
            real_args, real_kwargs = unwrap(args), unwrap(kwargs)
            if kind == "call_module":
                return self.root.get_submodule(target)(*real_args, **real_kwargs)
            if kind == "call_method":
                return getattr(real_args[0], target)(*real_args[1:], **real_kwargs)
            return target(*real_args, **real_kwargs)
        finally:
            self.executing = was

    def _linear(self, input: Any, weight: Any, bias: Any) -> Any:
        """A projection of an attention; one whose weight belongs to a child module runs in that module's name."""
        owner = str(weight.node.target).rpartition(".")[0] if isinstance(weight, ValueProxy) else ""
        inside = owner.startswith(f"{self.scope.module_path}.".removeprefix(".")) and weight.node.op == "get_attr"
        if not owner or not inside:
            return F.linear(input, weight, bias)
        with ScopeContextManager(self.scope, Scope(owner, type(self.root.get_submodule(owner)))):
            return F.linear(input, weight, bias)

    def _name(self, kind: str) -> str | None:
        """Operations of a simple torch.nn module are named after the module: ``layer1_0_conv1``."""
        path, scope_type = self.scope.module_path, self.scope.module_type
        if (
            kind not in ("call_function", "call_method")
            or not path
            or not scope_type.__module__.startswith("torch.nn.")
        ):
            return None
        module = self.root.get_submodule(path)
        return path.replace(".", "_") if next(module.children(), None) is None else None

    def _info(self, node: fx.Node, value: Any, mutates: tuple[str, ...]) -> NodeInfo:
        file, line, code = user_line()
        spelling = node.target if node.op == "call_module" else qualified_name(node.target)
        origin = Origin(
            spelling=str(spelling),
            module_path=self.scope.module_path,
            module_type=qualified_type(self.scope.module_type),
            file=file,
            line=line,
            code=code,
        )
        storage = value.untyped_storage().data_ptr() if isinstance(value, Tensor) and not value.is_meta else 0
        return NodeInfo(
            value=describe_value(value), origin=origin, origins=(node.name,), mutates=mutates, storage=storage,
            largest=largest_magnitude(value),
        )  # fmt: skip

    def _placeholder(self, name: str, value: Any) -> Any:
        node = self.create_node("placeholder", name, (), {})
        set_info(node, self._info(node, value, ()))
        proxy = ValueProxy(node, self, value)
        if isinstance(value, Tensor):
            return proxy

        def at_leaf(leaf: Any, path: tuple[Any, ...]) -> Any:
            if not isinstance(leaf, Tensor):
                return self._constant_input(proxy, name, leaf, path)
            return _follow(self, proxy, path)

        return map_leaves(value, at_leaf)

    def _constant_input(self, proxy: ValueProxy, name: str, leaf: Any, path: tuple[Any, ...]) -> Any:
        """A flag, number or None given as input is built in, recorded, and checked at run time."""
        self.record("flag", f"{name}={leaf!r}")
        if isinstance(leaf, (bool, int, float, str, type(None))):
            self.create_proxy("call_function", require_equal, (_follow(self, proxy, path), leaf, name), {})
        return leaf

    @contextmanager
    def _containers_kept(self, keep: bool) -> Iterator[None]:
        was, self._keep_containers = self._keep_containers, keep
        try:
            yield
        finally:
            self._keep_containers = was


def _follow(tracer: ValueTracer, proxy: ValueProxy, path: tuple[Any, ...]) -> Any:
    """Record the steps from a container to one of its leaves."""
    for step in path:
        attribute = isinstance(step, tuple) and step[0] == "attr"
        function, key = (getattr, step[1]) if attribute else (operator.getitem, step)
        proxy = tracer.create_proxy("call_function", function, (proxy, key), {})
    return proxy


def _proxies(structure: Any) -> Iterator[ValueProxy]:
    if isinstance(structure, ValueProxy):
        yield structure
    elif isinstance(structure, (tuple, list)):
        for item in structure:
            yield from _proxies(item)
    elif isinstance(structure, dict):
        for item in structure.values():
            yield from _proxies(item)


def _tensors(structure: Any) -> list[Tensor]:
    values = [proxy.value for proxy in _proxies(structure)]
    return [value for value in values if isinstance(value, Tensor) and not value.is_inference()]


def _plain_tensors(structure: Any) -> Iterator[Tensor]:
    """Tensors that are no values of the graph."""
    if isinstance(structure, Tensor) and not structure.is_inference():
        yield structure
    elif isinstance(structure, (tuple, list)):
        for item in structure:
            yield from _plain_tensors(item)
    elif isinstance(structure, dict):
        for item in structure.values():
            yield from _plain_tensors(item)


def _changed_names(structure: Any, changed: set[int]) -> tuple[str, ...]:
    return tuple(proxy.node.name for proxy in _proxies(structure) if id(proxy.value) in changed)
