"""Observers by hand: each module that will be quantized gets one, as its child ``activation_post_process``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fxquant.eager.attention import Attention
from fxquant.eager.custom import OBSERVED_BY, custom_classes, made_by
from fxquant.eager.fuse_modules import FusedReLU
from fxquant.eager.recurrent import INSIDE, ObserveRecurrent, observe_recurrent
from fxquant.eager.roles import OPAQUE, Part, Role, role_of
from fxquant.errors import CalibrationError, ConfigError
from fxquant.fusion.rule import TRANSPOSED, spatial_rank
from fxquant.observers import MinMaxObserver
from fxquant.observers.input_statistics import InputStatistics, statistics_for
from fxquant.plan.read_qconfig import mode_of

_Model = TypeVar("_Model", bound=nn.Module)

OBSERVER, STATISTICS, INPUT_RANGE = "activation_post_process", "input_statistics", "input_range"


class ObserveOutput:
    """A forward hook that shows the output to the module's observer.

    Args:
        path: of the module, for messages.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Observe ``output``.

        Raises:
            CalibrationError: it holds NaN or infinity.
        """
        with torch.no_grad():
            try:
                getattr(module, OBSERVER)(output.detach())
            except CalibrationError as error:
                raise CalibrationError(error.message, module_path=self.path, remedy=error.remedy) from None


class ObserveInput:
    """A forward pre-hook that takes statistics of what a weight is multiplied with."""

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Add the first input to the statistics."""
        with torch.no_grad():
            getattr(module, STATISTICS)(inputs[0])
            getattr(module, INPUT_RANGE)(inputs[0])


def propagate_qconfig_(
    module: nn.Module,
    qconfig_dict: Mapping[Any, Any] | None = None,
    prepare_custom_config_dict: Mapping[str, Any] | None = None,
) -> None:
    """Give every module the attribute ``qconfig``: its own, else its entry's, else its parent's.

    Args:
        module: the model; changed in place.
        qconfig_dict: QConfigs by path ("" for all) or by module class.
        prepare_custom_config_dict: children are left out whose name is in its ``non_traceable_module_name``, or whose
            class is in its ``non_traceable_module_class``.
    """
    given, config = dict(qconfig_dict or {}), prepare_custom_config_dict or {}
    outside = (*config.get("non_traceable_module_name", ()), *config.get("non_traceable_module_class", ()))
    children = [item for parent in module.modules() for item in parent.named_children()]
    left_out = {child for name, child in children if name in outside or type(child) in outside}
    _propagate(module, given, given.get(""), "", left_out)


def _propagate(module: nn.Module, given: dict[Any, Any], parent: Any, path: str, seen: set[nn.Module]) -> None:
    if module in seen:
        return
    seen.add(module)
    kind = type(module[0]) if isinstance(module, FusedReLU) else type(module)
    entry = given.get(path, given.get(kind, parent))
    module.qconfig = qconfig = getattr(module, "qconfig", entry)
    if isinstance(module, OPAQUE):
        return
    for name, child in module.named_children():
        _propagate(child, given, qconfig, f"{path}.{name}".strip("."), seen)


def walk(
    module: nn.Module, visit: Callable[[nn.Module, Role, str], None], path: str = "", skip: Collection[type] = ()
) -> None:
    """Visit the modules that have a part, and those that have no children; not what is inside them.

    Args:
        module: the model.
        visit: called with the module, its role and its path.
        path: of ``module``.
        skip: classes that are neither visited nor looked into.
    """
    if type(module) in skip:
        return
    role = role_of(module)
    if role.part is not Part.NONE or next(module.children(), None) is None:
        visit(module, role, path)
    elif not isinstance(module, OPAQUE):
        for name, child in module.named_children():
            walk(child, visit, f"{path}.{name}".strip("."), skip)


def prepare(
    model: _Model,
    inplace: bool = False,
    allow_list: Collection[type[nn.Module]] | None = None,
    observer_non_leaf_module_list: Collection[type[nn.Module]] | None = None,
    prepare_custom_config_dict: Mapping[str, Any] | None = None,
) -> _Model:
    """Attach observers to the modules that will be quantized.

    Args:
        model: float, in eval mode, with QConfigs as attributes ``qconfig`` of itself or of modules in it; children
            follow their parents, None keeps them float.
        inplace: change ``model`` itself instead of a copy.
        allow_list: the classes to quantize; stubs, functionals and fused modules always are. None for all.
        observer_non_leaf_module_list: classes whose output is observed besides, though they contain what is quantized.
        prepare_custom_config_dict: ``{"float_to_observed_custom_module_class": {Given: Observed}}``; the observed class
            has ``from_float``. Use ``convert`` with the second half of it.

    Returns:
        A model to run calibration data through, then to pass to ``convert``.

    Raises:
        ConfigError: no module has a QConfig, the model is in training mode, or a custom config that is none.
    """
    custom = custom_classes(prepare_custom_config_dict, OBSERVED_BY)
    if model.training:
        raise ConfigError("eager.prepare needs the model in eval mode", remedy="call model.eval() first")
    prepared = model if inplace else copy.deepcopy(model)
    propagate_qconfig_(prepared)
    _open_attention(prepared)
    configured = _observe_others(prepared, custom, observer_non_leaf_module_list or ())

    def attach(module: nn.Module, role: Role, path: str) -> None:
        if allow_list is not None and not _is_allowed(module, role, allow_list):
            module.qconfig = None  # type: ignore[assignment]
        if getattr(module, "qconfig", None) is not None and role.part is not Part.NONE:
            configured.append(path)
            _attach(module, role, path)

    walk(prepared, attach, skip=tuple(custom.values()))
    if not configured:
        raise ConfigError(
            "no module that can be quantized has a qconfig",
            remedy="set model.qconfig = fxquant.get_default_qconfig('x86') before prepare",
        )
    return prepared


def _is_allowed(module: nn.Module, role: Role, allowed: Collection[type[nn.Module]]) -> bool:
    always = role.part in (Part.QUANTIZE, Part.DEQUANTIZE, Part.FUNCTIONAL, Part.NONE) or isinstance(module, FusedReLU)
    return always or type(module) in allowed


def _observe_others(
    model: nn.Module, custom: Mapping[type[nn.Module], Any], containers: Collection[type[nn.Module]]
) -> list[str]:
    """Put observed modules of the user's classes in their place, and observe ``containers``; returns their paths."""
    found: list[str] = []
    replaced: list[str] = []
    for path, module in list(model.named_modules()):
        qconfig: Any = getattr(module, "qconfig", None)
        wanted = path and type(module) in (*custom, *containers)
        if qconfig is None or not wanted or any(path.startswith(f"{outer}.") for outer in replaced):
            continue
        found.append(path)
        if type(module) in custom:
            replaced.append(path)
            module = made_by(custom[type(module)], "from_float", module, path)
            model.set_submodule(path, module)
        if not hasattr(module, OBSERVER):
            module.add_module(OBSERVER, qconfig.activation())
            module.register_forward_hook(ObserveOutput(path))
    return found


def _open_attention(model: nn.Module) -> None:
    """Put attention with linears in the place of modules that read their projections' weights themselves."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            qconfig: Any = getattr(child, "qconfig", None)
            if isinstance(child, nn.MultiheadAttention) and qconfig is not None and not mode_of(qconfig):
                parent._modules[name] = opened = Attention(child)
                opened.qconfig = qconfig
                propagate_qconfig_(opened)


def _attach(module: nn.Module, role: Role, path: str) -> None:
    qconfig: Any = module.qconfig
    if role.part in (Part.WEIGHTED, Part.TABLE, Part.RECURRENT) and _needs_no_data(role, path, qconfig):
        return
    if role.part is Part.RECURRENT:
        if not hasattr(module, OBSERVER):
            observe_recurrent(module, role, path, OBSERVER)
        return
    if role.part is Part.FUNCTIONAL:
        setattr(module, OBSERVER, qconfig.activation())
        return
    if role.part is Part.WEIGHTED and not hasattr(module, STATISTICS):
        module.add_module(STATISTICS, _statistics_for(role))
        module.add_module(INPUT_RANGE, MinMaxObserver())
        module.register_forward_pre_hook(ObserveInput())
    if role.is_observed and not hasattr(module, OBSERVER):
        module.add_module(OBSERVER, qconfig.activation())
        module.register_forward_hook(ObserveOutput(path))


def _statistics_for(role: Role) -> InputStatistics:
    assert role.row is not None
    layer: Any = role.layer
    rank = spatial_rank(role.row.name)
    if role.row.name in TRANSPOSED:
        return InputStatistics(-1 - rank)
    return statistics_for(rank, layer.weight.shape, getattr(layer, "groups", 1), getattr(layer, "dilation", 1))


def _needs_no_data(role: Role, path: str, qconfig: Any) -> bool:
    """Whether ranges are taken at run time, or weights alone are quantized.

    Raises:
        ConfigError: calibration is to find ranges of a module that takes none.
    """
    if mode_of(qconfig):
        return True
    if role.part is not Part.TABLE:
        return False
    raise ConfigError(
        f"{type(role.layer).__name__} has no int8 kernel whose ranges are calibrated",
        module_path=path,
        remedy="set its attribute qconfig to float_qparams_weight_only_qconfig, or to None to keep it float",
    )


def without_observers(module: nn.Module) -> nn.Module:
    """Remove from a module what ``prepare`` put there, in place."""
    for name in (OBSERVER, STATISTICS, INPUT_RANGE, INSIDE, "trained_weight"):
        if name in module._modules:
            delattr(module, name)
    kinds = (ObserveOutput, ObserveRecurrent)
    for key in [key for key, hook in module._forward_hooks.items() if isinstance(hook, kinds)]:
        del module._forward_hooks[key]
        module._forward_hooks_with_kwargs.pop(key, None)
    for key in [key for key, hook in module._forward_pre_hooks.items() if isinstance(hook, ObserveInput)]:
        del module._forward_pre_hooks[key]
    module.__dict__.pop("qconfig", None)
    return module
