"""Which entry of a configuration decides for an operation: what torch.ao's rules say, and what goes beyond them."""

from __future__ import annotations

import operator
import random
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from fxquant import QConfigMapping, pipeline
from fxquant.errors import ConfigError
from fxquant.inspect.float_mapping import leave_float
from fxquant.plan.match_calls import OTHER_SPELLING, as_call, closeness
from fxquant.plan.resolve_qconfig import Resolver

ON = fxquant.get_default_qconfig("x86")


class SubclassedLinear(nn.Linear):
    """Traced into, unlike torch's own."""


class Block(nn.Module):
    """Modules, functions, methods and operators, some of one operation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(4, 4, 1)
        self.weight = nn.Parameter(torch.randn(4, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv2(self.relu(self.conv(x))))
        y = torch.relu((torch.add(y + x, x).add(x) + x).relu())
        return torch.sigmoid(F.conv2d(y, self.weight)).sigmoid() * 2


class Outer(nn.Module):
    """Two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.b1, self.b2, self.act = Block(), Block(), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(self.act(self.b2(self.b1(x))), 1)


class Net(nn.Module):
    """Paths of which one is the beginning of another, and a module called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1, self.layer10 = Outer(), Outer()
        self.seq = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))
        self.lin, self.fc = SubclassedLinear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer10(self.layer1(x))
        x = (self.seq(x) + self.seq(x)).mean((2, 3))
        x = self.fc(self.lin(x))
        return F.linear(torch.mul(x, x), self.fc.weight)


TYPES = (
    nn.Conv2d, nn.ReLU, nn.Linear, nn.Sigmoid, nn.Sequential, Block, Outer, SubclassedLinear, F.relu, torch.relu,
    "relu", "add", torch.add, operator.add, F.conv2d, torch.sigmoid, "sigmoid", operator.mul, torch.mul, F.linear,
    "mean",
)  # fmt: skip
PATTERNS = (
    "layer1.*", r"layer1\..*", "layer1$", ".*b1.*", ".*conv", r".*\.b2\.conv2?", "seq", r"layer\d+\.b1$", "", "fc|lin",
)  # fmt: skip


def _entries(seed: int, paths: list[str], orders: list[tuple[str, Any]]) -> list[tuple[Any, ...]]:
    """Names of setters with their arguments, without the QConfig."""
    draw = random.Random(seed)
    entries: list[tuple[Any, ...]] = []
    for _ in range(draw.randint(1, 8)):
        kind = draw.choice(["global", "type", "type", "regex", "name", "order", "order", "order"])
        entries += {
            "global": [("set_global",)],
            "type": [("set_object_type", draw.choice(TYPES))],
            "regex": [("set_module_name_regex", draw.choice(PATTERNS))],
            "name": [("set_module_name", draw.choice(paths[1:]))],
            "order": [("set_module_name_object_type_order", *draw.choice(orders), draw.randint(0, 2))],
        }[kind]
    return entries


def _torch_ao() -> tuple[Any, Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        quantization = pytest.importorskip("torch.ao.quantization")
        utils = pytest.importorskip("torch.ao.quantization.fx.qconfig_mapping_utils")
        tracer = pytest.importorskip("torch.ao.quantization.fx.tracer")
    return quantization, utils, tracer


def test_the_entry_is_the_one_that_torch_ao_takes() -> None:
    """Where torch.ao has only the global QConfig, entries by function may mean other spellings too."""
    quantization, utils, tracer_module = _torch_ao()
    net = Net().eval()
    tracer = tracer_module.QuantizationTracer([], [])
    theirs = fx.GraphModule(net, tracer.trace(net))
    ours = pipeline.capture(net, (torch.randn(1, 4, 3, 3),)).graph
    modules = dict(net.named_modules())
    calls = [[node for node in graph.nodes if node.op.startswith("call_")] for graph in (theirs.graph, ours)]
    assert len(calls[0]) == len(calls[1])
    made = [call for node in calls[1] if (call := as_call(node)) is not None]
    written = [
        (call.owner, key)
        for call in made
        for key in TYPES
        if closeness(key, call.origin, call.op) > OTHER_SPELLING
        if call.is_module == isinstance(key, type) and not isinstance(key, str)  # torch.ao does not count methods
    ]
    compared = 0
    for seed in range(200):
        expected, mapping = quantization.QConfigMapping(), QConfigMapping()
        entries = _entries(seed, list(modules), written)
        for number, (setter, *arguments) in enumerate(entries):
            qconfig = quantization.QConfig(activation=type(f"Entry{number}", (), {}), weight=None)
            getattr(expected, setter)(*arguments, qconfig)
            getattr(mapping, setter)(*arguments, qconfig)
        wanted = utils._generate_node_name_to_qconfig(
            theirs, modules, theirs.graph, expected, tracer.node_name_to_scope
        )
        found = Resolver(mapping, tuple(modules)).resolve_graph(ours)
        for their_node, our_node in zip(*calls, strict=True):
            want, got = _name_of(wanted[their_node.name]), found[our_node.name]
            if want == _name_of(mapping.global_qconfig) and got.entry.startswith("set_object_type"):
                continue
            assert _name_of(got.qconfig) == want, (seed, our_node, entries)
            compared += 1
    assert compared > 5000


def _name_of(qconfig: Any) -> str:
    """The class that marks an entry; torch.ao wraps it in a partial."""
    if qconfig is None:
        return ""
    built = qconfig.activation
    return str((built.p.func if hasattr(built, "p") else built).__name__)


class Written(nn.Module):
    """Three spellings of one operation."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x.sigmoid() + 1) + torch.special.expit(x)


def _found(model: nn.Module, mapping: QConfigMapping, *shape: int) -> dict[str, str]:
    """Entry that decided, by node."""
    captured = pipeline.capture(model.eval(), (torch.randn(shape),))
    paths = tuple(name for name, _ in model.named_modules())
    resolved = Resolver(mapping, paths).resolve_graph(captured.graph)
    return {name: found.entry for name, found in resolved.items()}


def test_an_entry_for_the_spelling_beats_one_for_another() -> None:
    """Whichever was written later."""
    mapping = QConfigMapping().set_object_type("sigmoid", ON).set_object_type(torch.sigmoid, None)
    found = _found(Written(), mapping, 2, 2)
    assert found["sigmoid"] == "set_object_type('sigmoid')"
    assert found["sigmoid_1"] == found["special_expit"] == "set_object_type(sigmoid)"


def test_the_class_around_a_function_beats_the_function() -> None:
    mapping = QConfigMapping().set_object_type(Written, None).set_object_type(torch.sigmoid, ON)
    found = _found(nn.Sequential(Written()), mapping, 2, 2)
    assert set(found.values()) == {"set_object_type(Written)"}


def test_orders_count_the_spelling_that_is_named() -> None:
    mapping = QConfigMapping().set_module_name_object_type_order("", torch.sigmoid, 0, None)
    found = _found(Written(), mapping, 2, 2)
    assert found["sigmoid"] == "set_global" and "order" in found["sigmoid_1"]


def test_orders_count_every_spelling_where_none_is_the_one_named() -> None:
    mapping = QConfigMapping().set_module_name_object_type_order("", F.sigmoid, 2, None)
    found = _found(Written(), mapping, 2, 2)
    assert [name for name, entry in found.items() if "order" in entry] == ["special_expit"]


@pytest.mark.parametrize(("index", "expected"), [(0, ["0", "0_1"]), (1, ["0_2", "0_3"]), (2, ["1"])])
def test_a_module_of_several_operators_is_one_call(index: int, expected: list[str]) -> None:
    """A convolution that pads is two operators; two calls of it, one after the other, are two calls."""

    class Twice(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self[1](self[0](self[0](x)))
            return result

    model = Twice(nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), nn.Conv2d(4, 4, 3))
    mapping = QConfigMapping().set_module_name_object_type_order("", nn.Conv2d, index, None)
    found = _found(model, mapping, 1, 4, 6, 6)
    assert [name.removeprefix("_") for name, entry in found.items() if "order" in entry] == expected


def test_orders_that_match_nothing_are_listed() -> None:
    x = torch.randn(1, 4, 3, 3)
    mapping = QConfigMapping().set_global(ON).set_module_name_object_type_order("layer1.b1", nn.Conv2d, 2, None)
    observed = fxquant.prepare_fx(Net().eval(), mapping, (x,))
    entry = "set_module_name_object_type_order('layer1.b1', Conv2d, 2) matched nothing"
    assert entry in observed.plan.notes
    with pytest.raises(ConfigError, match="matched nothing"):
        fxquant.quantize(Net().eval(), [x], qconfig_mapping=mapping, progress=False)
    fxquant.quantize(Net().eval(), [x], qconfig_mapping=mapping, progress=False, strict=False)


def test_patterns_that_are_none_are_refused() -> None:
    mapping = QConfigMapping().set_global(ON).set_module_name_regex("layer[", None)
    with pytest.raises(ConfigError, match=r"set_module_name_regex\('layer\['\)"):
        fxquant.prepare_fx(Net().eval(), mapping, (torch.randn(1, 4, 3, 3),))


def test_operators_can_be_named_among_other_spellings() -> None:
    """What ``sensitivity`` recommends leaves the one operator float that it means."""
    model, x = Net().eval(), torch.randn(2, 4, 5, 5)
    mapping = QConfigMapping().set_global(ON)
    observed = fxquant.prepare_fx(model, mapping, (x,))
    for unit in observed.plan.units:
        if unit.output:
            again = fxquant.prepare_fx(model, leave_float(mapping, observed, {unit.name}), (x,))
            excluded = {other.anchor for other in again.plan.units if other.reason.startswith("excluded")}
            assert excluded == {unit.anchor}
