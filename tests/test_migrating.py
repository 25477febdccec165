"""docs/migrating.md against the installed torch.ao, and torch.ao's tutorial with nothing but its imports changed."""

from __future__ import annotations

import copy
import enum
import inspect
import runpy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fxquant

ROOT = Path(__file__).parents[1]
PAGE = runpy.run_path(str(ROOT / "docs" / "make_migrating.py"))
TABLE = PAGE["load"]()
PACKAGE = "torch.ao.quantization"
ENTRIES = [(module, name, entry) for module, entries in TABLE.items() for name, entry in entries.items()]
PRESENT = sorted({name for _, name, entry in ENTRIES if entry.status == "present"})
# Modules whose classes are listed member by member: what configures a run is spelled out.
MEMBER_BY_MEMBER = (f"{PACKAGE}.qconfig_mapping", f"{PACKAGE}.fx.custom_config", f"{PACKAGE}.backend_config")
PLAIN_CLASSES = ("StandaloneModuleConfigEntry", "DTypeConfig", "DTypeWithConstraints", "ObservationType")


def _module(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name)


def _public(module: Any) -> set[str]:
    """``__all__``, or else every class and function of torch.ao that the module holds."""
    if hasattr(module, "__all__"):
        return set(module.__all__)
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and callable(value) and str(getattr(value, "__module__", "")).startswith("torch.ao")
    }


def _members(kind: type) -> set[str]:
    """Public members that a class of torch.ao adds to what modules, tuples and enumerations have anyway."""
    known = {name for base in (nn.Module, tuple, enum.Enum) for name in dir(base)}
    found: set[str] = set()
    for base in kind.__mro__:
        if base.__module__.startswith("torch.ao"):
            found |= {*vars(base), *getattr(base, "__dataclass_fields__", {})}
    return {name for name in found if not name.startswith("_")} - known


def _reach(name: str) -> Any:
    """What a dotted name stands for in fxquant; attributes that only instances have are looked up on one."""
    owner, _, member = name.partition(".")
    value = getattr(fxquant, owner)
    if not member:
        return value
    return getattr(value if hasattr(value, member) else value(), member)


def _has(name: str) -> bool:
    try:
        _reach(name)
    except (AttributeError, TypeError):
        return False
    return True


def test_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "migrating.md").read_text() == PAGE["render"](), "run `python docs/make_migrating.py`"


@pytest.mark.parametrize("module", [name for name in TABLE if name != PACKAGE])
def test_every_public_name_is_listed_and_nothing_else(module: str) -> None:
    theirs = _module(module)
    assert _public(theirs) - set(TABLE[module]) == set()
    for name in TABLE[module]:
        owner, _, member = name.partition(".")
        assert member in _members(getattr(theirs, owner)) if member else hasattr(theirs, name), name


def test_names_of_the_package_are_listed_here_or_there() -> None:
    public = _public(_module(PACKAGE))
    assert public - {name for _, name, _ in ENTRIES} == set()
    assert set(TABLE[PACKAGE]) - public == set()


@pytest.mark.parametrize("module", MEMBER_BY_MEMBER)
def test_members_of_configs_are_listed(module: str) -> None:
    theirs = _module(module)
    for name in TABLE[module]:
        kind = getattr(theirs, name, None)
        if isinstance(kind, type) and name not in PLAIN_CLASSES:
            listed = {key.partition(".")[2] for key in TABLE[module] if key.startswith(f"{name}.")}
            assert listed == _members(kind), name


@pytest.mark.parametrize("module", list(TABLE))
def test_members_of_present_classes_are_present(module: str) -> None:
    theirs = _module(module)
    for name, entry in TABLE[module].items():
        kind = getattr(theirs, name, None)
        if entry.status == "present" and isinstance(kind, type):
            unlisted = {f"{name}.{member}" for member in _members(kind)} - set(TABLE[module])
            assert not [member for member in unlisted if not _has(member)]


def test_present_names_are_present_and_names_not_yet_there_are_not() -> None:
    assert [name for name in PRESENT if not _has(name)] == []
    assert {name for name in PRESENT if "." not in name} <= set(fxquant.__all__)
    assert [name for _, name, entry in ENTRIES if entry.status == "not yet" and _has(name)] == []


def test_every_entry_says_what_it_has_to_say() -> None:
    assert {entry.status for _, _, entry in ENTRIES} <= {"present", "replaced", "not yet", "not planned"}
    assert all(entry.remark for _, _, entry in ENTRIES if entry.status != "present")
    listed: dict[str, str] = {}
    for _, name, entry in ENTRIES:
        assert listed.setdefault(name, entry.status) == entry.status, name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("module", list(TABLE))
def test_present_names_take_the_same_arguments(module: str) -> None:
    theirs = _module(module)
    present = [name for name, entry in TABLE[module].items() if entry.status == "present" and _has(name)]
    different = []
    for name in present:
        owner, _, member = name.partition(".")
        found = getattr(theirs, owner)
        found = getattr(found, member, None) if member else found
        if not _takes_what(_reach(name), found, named=member != "from_dict"):
            different.append(name)
    assert different == []


def _takes_what(ours: Any, theirs: Any, named: bool) -> bool:
    """Whether arguments come in torch.ao's order under torch.ao's names; ``named=False``: only in that number."""
    if isinstance(theirs, type) and issubclass(theirs, enum.Enum):
        return {item.name: item.value for item in theirs} == {item.name: item.value for item in ours}
    if not inspect.isroutine(theirs) and not inspect.isclass(theirs):
        return True
    wanted, given = _parameters(theirs), _parameters(ours)
    if not named:
        return len(wanted) == len(given)
    open_ended = any(item.kind is item.VAR_KEYWORD for item in inspect.signature(ours).parameters.values())
    return given[: len(wanted)] == wanted[: len(given)] and (open_ended or set(wanted) <= set(given))


def _parameters(function: Any) -> list[str]:
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in inspect.signature(function).parameters.values() if p.kind not in kinds]


IMPORTS = {
    "torch.ao": (
        "from torch.ao.quantization import QConfigMapping, default_qconfig, get_default_qconfig\n"
        "from torch.ao.quantization.fx.custom_config import ConvertCustomConfig, PrepareCustomConfig\n"
        "from torch.ao.quantization.quantize_fx import convert_fx, fuse_fx, prepare_fx\n"
    ),
    "fxquant": (
        "from fxquant import QConfigMapping, default_qconfig, get_default_qconfig\n"
        "from fxquant import ConvertCustomConfig, PrepareCustomConfig\n"
        "from fxquant import convert_fx, fuse_fx, prepare_fx\n"
    ),
}
# The steps of https://docs.pytorch.org/tutorials/prototype/fx_graph_mode_ptq_static.html on a small network.
TUTORIAL = """
model_to_quantize = copy.deepcopy(float_model)
model_to_quantize.eval()
qconfig = get_default_qconfig("x86")
qconfig_mapping = QConfigMapping().set_global(qconfig)
example_inputs = (next(iter(data_loader))[0])

def calibrate(model, data_loader):
    model.eval()
    with torch.no_grad():
        for image, target in data_loader:
            model(image)

def evaluate(model):
    with torch.no_grad():
        return torch.cat([model(image) for image, target in data_loader])

fused_model = fuse_fx(model_to_quantize)
prepared_model = prepare_fx(model_to_quantize, qconfig_mapping, example_inputs)
print(prepared_model.graph)
calibrate(prepared_model, data_loader)
quantized_model = convert_fx(prepared_model)
print(quantized_model)

torch.save(quantized_model.state_dict(), path)
prepared_model = prepare_fx(copy.deepcopy(float_model), {"": qconfig}, example_inputs)
calibrate(prepared_model, data_loader[:1])
loaded_model = convert_fx(prepared_model)
loaded_model.load_state_dict(torch.load(path))
traced_model = torch.jit.trace(quantized_model, example_inputs)

qconfig_mapping = (
    QConfigMapping()
    .set_global(qconfig)
    .set_object_type(nn.Linear, default_qconfig)
    .set_module_name("features.0", None)
)
custom_config = PrepareCustomConfig().set_preserved_attributes(["classes"])
prepared_model = prepare_fx(
    copy.deepcopy(float_model), qconfig_mapping, (example_inputs,), prepare_custom_config=custom_config
)
calibrate(prepared_model, data_loader)
custom_config = ConvertCustomConfig().set_preserved_attributes(["classes"])
partly_quantized_model = convert_fx(prepared_model, custom_config)
"""


class Classifier(nn.Module):
    """A convolution folded with its batch norm, a residual addition, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.block = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 10)
        self.classes = list("0123456789")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features(x)
        return self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(x + self.block(x), 1), 1))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("source", list(IMPORTS))
def test_tutorial_needs_only_other_imports(source: str, tmp_path: Path) -> None:
    if source == "torch.ao":
        _module("torch.ao.quantization.quantize_fx")
    torch.manual_seed(191009)
    data = [(torch.randn(8, 3, 12, 12), torch.zeros(8)) for _ in range(4)]
    float_model = Classifier()
    with torch.no_grad():
        for image, _ in data:
            float_model(image)
    names: dict[str, Any] = {"copy": copy, "torch": torch, "nn": nn, "float_model": float_model.eval()}
    names |= {"data_loader": data, "path": tmp_path / "quantized.pt"}
    exec(IMPORTS[source] + TUTORIAL, names)
    expected = names["evaluate"](float_model)
    found = {
        name: names["evaluate"](names[name]) for name in names if name.endswith("_model") and name != "float_model"
    }
    assert torch.allclose(found.pop("fused_model"), expected, atol=1e-5)
    assert torch.equal(found["quantized_model"], found["loaded_model"])
    assert torch.equal(found["quantized_model"], found["traced_model"])
    for name, result in found.items():
        if name != "model_to_quantize":
            error = (result - expected).square().mean()
            assert 10 * torch.log10(expected.square().mean() / error) > 25, name
    assert names["partly_quantized_model"].classes == float_model.classes
