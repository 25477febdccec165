"""The tracer: ``torch.fx.Tracer`` that runs every operation on the example while it records it."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from types import CodeType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.proxy import Scope, ScopeContextManager

from fxquant.capture.answers import Answers
from fxquant.capture.call_part import call_whole
from fxquant.capture.cut_function import Cut
from fxquant.capture.facts import FactKind
from fxquant.capture.inputs import BoundInputs, map_leaves
from fxquant.capture.keep_state import Change
from fxquant.capture.levels import depends_of, is_fixed
from fxquant.capture.lower_arguments import ArgumentLowering
from fxquant.capture.proxy import Depends, ValueProxy
from fxquant.capture.recorder import Recorder
from fxquant.capture.record_calls import record_call
from fxquant.capture.run_hooks import call_between_hooks, has_hooks
from fxquant.capture.source import user_line
from fxquant.capture.structures import leaves, unwrap
from fxquant.capture.stubs import is_border
from fxquant.capture.torch_mode import record_torch
from fxquant.ir.checks import require_equal
from fxquant.ir.float_part import FloatPart
from fxquant.ir.meta import NodeInfo, Origin, describe_value, largest_magnitude, qualified_name, qualified_type, set_info
from fxquant.ops import catalogue

_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_READS_CONTAINER = (operator.getitem, getattr, operator.contains, len, operator.setitem, operator.delitem)
_CHANGES_CONTAINER = frozenset(
    ("append", "extend", "insert", "pop", "clear", "update", "setdefault", "remove", "setitem", "delitem", "add")
)


class ValueTracer(fx.Tracer):
    """Records a graph and its values at once.

    Args:
        inputs: bound example inputs; their tensors are used as they are, so pass copies.
        leaf_names: module paths that stay float leaves.
        leaf_classes: module classes that stay float leaves.
        whole: whether the model is called as one part.

    Attributes:
        recorder: what was met during the trace.
        executing: True while a recorded operation runs on its values; nothing is recorded then.
        answers: what proxies are answered with.
        sizes_built_in: whether answers about sizes are always built in.
        refused: (code, position) of statements that ask for sizes and could not be kept whole.
        rejected_before: (code, first line, last line) of those on whose results branches depend.
        constants: what was put on the root during the trace because nodes refer to it, by name.
        unhooked: paths of modules whose hooks became part of the graph.
        failed: whether the trace ended before the model did.
        plain_tensors: paths of buffers of the copy that are plain attributes of the user's model.
        replaced: those of them that forward replaced.
        rejected: statements kept whole for the sake of sizes, on whose results branches depend.
        fresh: tensors that forward made and that are no values of the graph, by id.
    """

    proxy_buffer_attributes = True

    def __init__(
        self,
        inputs: BoundInputs,
        leaf_names: Collection[str] = (),
        leaf_classes: Collection[type[nn.Module]] = (),
        whole: bool = False,
    ) -> None:
        super().__init__()
        self.inputs = inputs
        self.leaf_names = frozenset(leaf_names)
        self.leaf_classes = tuple(leaf_classes)
        self.recorder = Recorder(self._trace_into.__code__)
        self.whole = whole
        self.executing = False
        self.answers = Answers(self)
        self.sizes_built_in = False
        self.refused: set[tuple[CodeType, Any]] = set()
        self.rejected_before: set[tuple[CodeType, int, int]] = set()
        self.constants: dict[str, Any] = {}
        self.unhooked: set[str] = set()
        self.failed = False
        self.plain_tensors: frozenset[str] = frozenset()
        self.replaced: list[Change] = []
        self.rejected: list[Cut] = []
        self.fresh: dict[int, Tensor] = {}
        self.lowering = ArgumentLowering(self)
        self._keep_containers = False
        self._pending: dict[str, ValueProxy] = {}
        self._views: dict[Any, nn.Module] = {}
        self._known_modules: set[int] = set()

    # -- what fx asks of a tracer -----------------------------------------------------------------

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Leaves: what the user named, what must stay a module (batch norm, dropout), recurrent layers, stubs."""
        if self._is_float_leaf(m, module_qualified_name):
            return True
        if isinstance(m, (*_RECURRENT, torch.jit.ScriptModule)) or is_border(m):
            return True
        return catalogue.by_module(type(m)) is not None

    def _is_float_leaf(self, m: nn.Module, path: str) -> bool:
        return path in self.leaf_names or isinstance(m, self.leaf_classes)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """Placeholders for exactly the inputs given; containers are rebuilt around proxies."""
        self.lowering.name_attributes()
        self._known_modules = {id(module) for module in self.root.modules()}
        self.scope = Scope("", type(self.root))
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for name, how, value in self.inputs.entries:
            proxied = self._placeholder(name, value)
            if how == "keyword":
                kwargs[name] = proxied
            else:
                args.append(proxied)
        return lambda root: self._trace_root(args, kwargs), [self.root]

    def _trace_root(self, args: list[Any], kwargs: dict[str, Any]) -> Any:
        try:
            result = call_whole(self, args, kwargs) if self.whole else self.root._call_impl(*args, **kwargs)
        except Exception as error:
            self.recorder.report_error(error)
            self.failed = True
            return None
        for path, proxy in self._pending.items():
            if path not in self.plain_tensors:
                self.create_proxy("call_method", "copy_", (self.lowering.attribute(path), proxy), {})
        self.answers.settle()
        return result

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        """Parameters and buffers become ``get_attr`` nodes, one per tensor."""
        if self.executing or not isinstance(attr_val, Tensor):
            return attr_val
        name = self.lowering.path_of(attr_val)
        if name is None:
            return attr_val
        pending = self._pending.get(name)
        return self.lowering.attribute(name) if pending is None else pending

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Trace into modules that are no leaves; run leaves without recording their insides."""
        if self.executing:
            return forward(*args, **kwargs)
        path = self.path_of_module(m)
        record_call(self.recorder, m)
        if not self.is_leaf_module(m, path):
            return self._trace_into(m, path, forward, args, kwargs)

        def call(*args: Any, **kwargs: Any) -> Any:
            return self.create_proxy("call_module", path, args, kwargs)

        with ScopeContextManager(self.scope, Scope(path, type(m))):
            if self._is_float_leaf(m, path) or not has_hooks(m):
                return call(*args, **kwargs)
            self.recorder.record(FactKind.MODULE_HOOK, path, "its operations are recorded around the module")
            self.unhooked.add(path)
            return call_between_hooks(m, call, args, kwargs)

    def _trace_into(
        self, m: nn.Module, path: str, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Trace the inside of a module; where that fails, say so and go on with what the module computes."""
        self.recorder.modules.append(path)
        try:
            with ScopeContextManager(self.scope, Scope(path, type(m))):
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
            name = f"_unregistered_{len(paths)}"
            made_here = id(mod) not in self.lowering.contained_modules()
            kind = FactKind.MODULE_IN_FORWARD if made_here else FactKind.MODULE_IN_CONTAINER
            if made_here and next(mod.parameters(), None) is not None:
                self.recorder.report(kind, type(mod).__name__)
            else:
                self.recorder.record(kind, type(mod).__name__, f"registered as {name}")
            self.root.add_module(name, mod)
            self.constants[name] = mod
            paths.update({child: f"{name}.{inner}".rstrip(".") for inner, child in mod.named_modules()})
            self.lowering.name_attributes(mod, name)
        return super().path_of_module(mod)

    def add_module(self, name: str, module: nn.Module) -> str:
        """Register a module that is no module of the user's on the root; returns its name."""
        names = (name if not count else f"{name}_{count}" for count in itertools.count())
        free = next(item for item in names if not hasattr(self.root, item))
        children = vars(self.root)  # the model's forward may be going through the old dictionary
        children["_modules"] = {**children["_modules"], free: module}
        self.constants[free] = module
        return free

    def view_of(self, module: nn.Module, attributes: set[str | None]) -> nn.Module:
        """A module of the same class with the same attributes, of which only those named keep parameters.

        Args:
            module: one of the model's.
            attributes: what is read of it; ``None`` among them for all.
        """
        methods = any(name is not None and name in dir(type(module)) for name in attributes)
        every = None in attributes or methods or any(name not in _names_in(module) for name in attributes)
        key = (id(module), None if every else frozenset(attributes))
        if key not in self._views:
            view = type(module).__new__(type(module))
            vars(view).update(vars(module))
            for name in ("_modules", "_parameters", "_buffers"):
                entries = {key: item for key, item in vars(module)[name].items() if every or key in attributes}
                vars(view)[name] = {key: item for key, item in entries.items() if not isinstance(item, FloatPart)}
            self._views[key] = view
        return self._views[key]

    def create_arg(self, a: Any) -> Any:
        """Containers of tensors are passed on as containers of nodes, so that consumers see single tensors."""
        if isinstance(a, ValueProxy):
            a = self._with_gradients_cut(a)
            expand = type(a.value) is tuple or (type(a.value) is list and not self.is_whole(a))
            if not expand or self._keep_containers:
                return a.node
            return type(a.value)(self.create_arg(a[index]) for index in range(len(a.value)))  # type: ignore[index]
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
        self.answers.settle()
        given = list(leaves((args, kwargs)))
        proxies = [leaf for leaf in given if isinstance(leaf, ValueProxy)]
        versions = [(tensor, tensor._version) for tensor in _tensors(leaf.value for leaf in proxies)]
        plain = [(tensor, tensor._version) for tensor in _tensors(given)]
        value = self._run(kind, target, args, kwargs)
        changed = {id(tensor) for tensor, version in versions if tensor._version != version}
        if any(tensor._version != version for tensor, version in plain):
            self._refuse_write(target)
        depends, shape_depends = depends_of(kind, target, args, kwargs, value)
        if is_fixed(kind, target, args, depends, value):
            return value
        with self._containers_kept(kind == "call_function" and target in _READS_CONTAINER):
            node_args, node_kwargs = self.create_arg(args), self.create_arg(kwargs)
        node = self.create_node(kind, target, node_args, node_kwargs, self._name(kind) or name, type_expr)
        mutates = _changed_names(proxies, changed) or self._changed_container(kind, target, args)
        set_info(node, self._info(node, value, mutates))
        for proxy in proxies:
            if id(proxy.value) in changed:
                proxy.depends = max(proxy.depends, depends)
        made = ValueProxy(node, self, value, depends, shape_depends)
        made.outside_grad = self.cuts_gradients()
        made.from_part = target is operator.getitem and proxies[0].from_part
        return made

    # -- answering Python's questions ---------------------------------------------------------------

    def record(self, kind: FactKind, value: Any, handled: str = "") -> None:
        """Write down what the user's line asks for, or does."""
        if not self.executing:
            self.recorder.record(kind, value, handled)

    def report(self, kind: FactKind, value: Any) -> None:
        """Write down what no graph can hold."""
        if not self.executing:
            self.recorder.report(kind, value)

    def answer_branch(self, proxy: ValueProxy) -> bool:
        """See ``answers``."""
        return self.answers.branch(proxy)

    def answer_number(self, proxy: ValueProxy) -> Any:
        """See ``answers``."""
        return self.answers.number(proxy)

    def answer_length(self, proxy: ValueProxy) -> int:
        """See ``answers``."""
        return self.answers.length(proxy)

    def answer_index(self, proxy: ValueProxy) -> Any:
        """See ``answers``."""
        return self.answers.index(proxy)

    def is_whole(self, proxy: ValueProxy) -> bool:
        """Whether a list is passed on as one value: how many elements it has may depend on the inputs."""
        made = proxy.node.op == "call_module" and isinstance(getattr(self.root, str(proxy.node.target), None), FloatPart)
        return type(proxy.value) is list and (made or proxy.from_part or not _holds_tensors(proxy.value))

    def user_line(self) -> tuple[str, int, str]:
        """File, line number and text of the user's line that is running."""
        return user_line()

    def call_torch(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record a call of a torch function."""
        return record_torch(self, function, args, kwargs)

    def call_method(self, proxy: ValueProxy, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record a method call on a proxy."""
        if isinstance(proxy.value, Tensor) and name in ("item", "tolist"):
            self.record(FactKind.TENSOR_NUMBER, name, "recorded as an operation")
        elif isinstance(proxy.value, Tensor) and name in ("numpy", "__array__"):
            self.record(FactKind.TENSOR_NUMPY, name, "recorded as an operation")
        return self.create_proxy("call_method", name, (proxy, *args), kwargs)

    # -- writing ------------------------------------------------------------------------------------

    def set_tensor_attribute(self, proxy: ValueProxy, name: str, value: Any) -> None:
        """``x.data = y``: what a graph cannot do."""
        self.report(FactKind.OPAQUE_CALL, f"sets .{name}")
        setattr(proxy.value, name, unwrap(value))

    def set_attribute(self, module: nn.Module, name: str, value: Any) -> bool:
        """Take note that forward sets an attribute of a module; whether that is all there is to do."""
        if id(module) not in self._known_modules:
            return False  # a module that forward is making
        buffer = module._buffers.get(name)
        if not isinstance(value, ValueProxy) or buffer is None:
            kind = FactKind.BUFFER_UPDATE if name in module._buffers else FactKind.ATTRIBUTE_UPDATE
            self.recorder.record(kind, name)
            return False
        path = self.lowering.path_of(buffer)
        if path in self.plain_tensors:
            self.recorder.record(FactKind.ATTRIBUTE_UPDATE, name)
            self._pending[str(path)] = value
            owner, _, attribute = str(path).rpartition(".")
            self.replaced.append(Change(owner, attribute))
            return True
        made = value.value
        if not isinstance(made, Tensor) or made.shape != buffer.shape or made.dtype != buffer.dtype:
            self.recorder.report(FactKind.BUFFER_UPDATE, f"{name} changes its shape or dtype")
            module._buffers[name] = made if isinstance(made, Tensor) else buffer
            return True
        self.recorder.record(FactKind.BUFFER_UPDATE, name, "the graph updates the buffer")
        if path is not None and made is not buffer:
            self._pending[path] = value
        return True

    def _refuse_write(self, target: Any) -> None:
        """A tensor that is no value of the graph is changed: what is read from it later would be a constant."""
        self.report(FactKind.WRITE_TO_CONSTANT, qualified_name(target))

    def _changed_container(self, kind: str, target: Any, args: tuple[Any, ...]) -> tuple[str, ...]:
        """The list or dictionary that a call changes."""
        first = args[0] if args else None
        if not isinstance(first, ValueProxy) or not isinstance(first.value, (list, dict, set)):
            return ()
        name = target if kind == "call_method" else getattr(target, "__name__", "")
        return (first.node.name,) if name in _CHANGES_CONTAINER else ()

    # -- blocks without gradients -------------------------------------------------------------------

    def cuts_gradients(self) -> bool:
        """Whether the user's code is in a block without gradients."""
        return not torch.is_grad_enabled()

    def _with_gradients_cut(self, proxy: ValueProxy) -> ValueProxy:
        """What was computed in a block without gradients is detached where it is used outside."""
        value = proxy.value
        if not proxy.outside_grad or self.cuts_gradients() or not isinstance(value, Tensor):
            return proxy
        if not value.is_floating_point():
            return proxy
        proxy.outside_grad = False
        cut: ValueProxy = self.create_proxy("call_method", "detach", (proxy,), {})
        proxy.outside_grad = True
        return cut

    # -- insides ------------------------------------------------------------------------------------

    def _run(self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        was, self.executing = self.executing, True
        gradients = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)
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
            torch._C._set_grad_enabled(gradients)

    def linear_of(self, input: Any, weight: Any, bias: Any) -> Any:
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

    def describe(self, node: fx.Node, value: Any) -> None:
        """Attach what is known of a node that was made without a proxy."""
        set_info(node, self._info(node, value, ()))

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
        plain = isinstance(leaf, (bool, int, float, str, type(None)))
        self.record(FactKind.FLAG, f"{name}={leaf!r}" if plain else name, "checked when the graph runs" if plain else "")
        if plain:
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


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in values if isinstance(value, Tensor) and not value.is_inference()]


def _changed_names(proxies: list[ValueProxy], changed: set[int]) -> tuple[str, ...]:
    return tuple(proxy.node.name for proxy in proxies if id(proxy.value) in changed)


def _names_in(module: nn.Module) -> set[str]:
    return {*vars(module), *module._modules, *module._parameters, *module._buffers}


def _holds_tensors(value: list[Any]) -> bool:
    return any(isinstance(item, Tensor) for item in value)
