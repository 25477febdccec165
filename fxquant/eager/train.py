"""Quantization-aware training by hand: what will be quantized rounds as it will, while the model trains.

Average poolings are rounded where they are modules, and modules lie between them and what was rounded last. Those that
``forward`` calls as functions cannot be seen here: they train in float.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant.backends.select import select_backend
from fxquant.eager.fuse_modules import FusedReLU, module_at, own_fusers, put_fused
from fxquant.eager.integer_weights import weighted_unit
from fxquant.eager.prepare import OBSERVER, ObserveOutput, propagate_qconfig_
from fxquant.eager.roles import OPAQUE, Part, Role, role_of
from fxquant.errors import ConfigError, NotYetError
from fxquant.fusion.rule import TRANSPOSED
from fxquant.numerics.batch_norm import fold_batch_norm
from fxquant.numerics.conv_geometry import output_rows
from fxquant.observers.fake_quantize import FakeQuantize, as_fake_quantize
from fxquant.observers.switches import is_on
from fxquant.ops.opdef import Averages, Identity, Moves, Selects
from fxquant.ops.opened_modules import row_of_module
from fxquant.passes.trained_weights import TrainedWeight
from fxquant.plan.read_qconfig import mode_of

_Model = TypeVar("_Model", bound=nn.Module)

_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
TRAINED_WEIGHT = "trained_weight"
ROUNDED_BY = "fxquant_rounded_by"


class FusedBatchNorm(nn.Sequential):
    """A layer, the batch norm after it, and a relu or nothing, trained as one; what ``fuse_modules_qat`` makes."""


class TrainedLayer(nn.Module):
    """A layer whose weight and output are rounded as they will be, with its batch norm and relu.

    Args:
        layer: a convolution, ordinary or transposed, or linear; with a ``qconfig``.
        norm: the batch norm after it, or None.
        relu: whether a relu follows.
        path: of the module, for messages.
    """

    def __init__(self, layer: Any, norm: nn.Module | None, relu: bool, path: str) -> None:
        super().__init__()
        role = role_of(layer)
        assert role.row is not None
        _, unit = weighted_unit(role, path, select_backend(None, None).engine, "")
        self.layer, self.norm, self.relu, self.qconfig = layer, norm, relu, layer.qconfig
        transposed = role.row.name in TRANSPOSED
        fake = as_fake_quantize(layer.qconfig.weight())
        groups = int(getattr(layer, "groups", 1))
        self.trained_weight = TrainedWeight(unit, fake, groups, transposed)
        rows = output_rows(layer.weight, groups) if transposed else layer.weight
        statistics: Any = norm
        if norm is not None and statistics.running_var is not None:
            terms = statistics.running_mean, statistics.running_var, statistics.weight, statistics.bias, statistics.eps
            rows, _ = fold_batch_norm(rows, None, *terms)
        self.trained_weight.start(rows)
        self.add_module(OBSERVER, as_fake_quantize(layer.qconfig.activation()))

    def forward(self, x: Tensor, *sizes: Any) -> Tensor:
        """Compute the layer on ``x`` with what its integers stand for; ``sizes`` as the layer takes them."""
        layer: Any = self.layer
        weight, bias, _, called = self.trained_weight(layer.weight, layer.bias, None, self.norm)
        given = {"weight": weight} if layer.bias is None else {"weight": weight, "bias": bias}
        y: Tensor = torch.func.functional_call(layer, given, (x, *sizes))
        if layer.bias is None and bias is not None:
            y = y + (bias if isinstance(layer, nn.Linear) else bias.reshape(-1, *[1] * (weight.dim() - 2)))
        if called and self.norm is not None:
            y = self.norm(y)
        return getattr(self, OBSERVER)(F.relu(y) if self.relu else y)  # type: ignore[no-any-return]

    def deployed(self) -> nn.Module:
        """The layer as it will run, batch norm folded, for ``convert``."""
        made = copy.deepcopy(self.layer)
        norm: Any = self.norm
        if norm is not None:
            axis = 1 if self.trained_weight.transposed else 0
            statistics = norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps
            weight, bias = fold_batch_norm(
                made.weight, made.bias, *statistics, channel_axis=axis, groups=self.trained_weight.groups
            )
            made.weight, made.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
        whole: Any = FusedReLU(made, nn.ReLU()) if self.relu else made
        whole.qconfig = self.qconfig
        whole.add_module(OBSERVER, getattr(self, OBSERVER))
        whole.add_module(TRAINED_WEIGHT, self.trained_weight)
        return whole.train(self.training)  # type: ignore[no-any-return]


class RoundOutput(ObserveOutput):
    """A forward hook that rounds the output with the module's fake-quantize module."""

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:  # type: ignore[override]
        """Observe and round ``output``."""
        return getattr(module, OBSERVER)(output)  # type: ignore[no-any-return]


class KeepRange:
    """A forward hook for a module that hands on its input's numbers: its output is on the same grid.

    Which fake-quantize module rounded a tensor last is an attribute of the tensor.
    """

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        """Write the grid of the first input on ``output``, and give that."""
        fake = getattr(inputs[0], ROUNDED_BY, None) if inputs else None
        if fake is not None and isinstance(output, Tensor):
            setattr(output, ROUNDED_BY, fake)
        return output


class RoundAverage(KeepRange):
    """A forward hook for an average pooling: on integers it keeps its input's range, so its results are rounded."""

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        """Round ``output`` to the grid of the first input."""
        fake = getattr(inputs[0], ROUNDED_BY, None) if inputs else None
        if fake is not None and is_on(fake, "fake_quant_enabled") and fake.has_seen_data:
            output = fake.rounded(output, fake.quant_min, fake.quant_max)
        return super().__call__(module, inputs, output)


def _write_range(fake: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
    setattr(output, ROUNDED_BY, fake)


def _follow_ranges(model: nn.Module) -> None:
    """Let average poolings round to the range that their input was rounded to."""
    for module in model.modules():
        if isinstance(module, FakeQuantize):
            module.register_forward_hook(_write_range)
            continue
        row = None if isinstance(module, TrainedLayer) else row_of_module(type(module))
        if row is not None and isinstance(row.output, Averages):
            module.register_forward_hook(RoundAverage())
        elif row is not None and isinstance(row.output, (Moves, Selects, Identity)):
            module.register_forward_hook(KeepRange())


def fuse_modules_qat(
    model: _Model,
    modules_to_fuse: Sequence[str] | Sequence[Sequence[str]],
    inplace: bool = False,
    fuser_func: Callable[..., Sequence[nn.Module]] | None = None,
    fuse_custom_config_dict: Mapping[str, Any] | None = None,
) -> _Model:
    """Fuse modules that ``forward`` calls one after another, for training: batch norms go on learning.

    The first of a group becomes the fused module, the others ``nn.Identity``.

    Args:
        model: in training mode.
        modules_to_fuse: one group of paths, or several: convolution or linear, then batch norm, relu, or both; or batch
            norm, then relu.
        inplace: change ``model`` itself instead of a copy.
        fuser_func, fuse_custom_config_dict: as for ``fuse_modules``; they get ``is_qat=True``.

    Raises:
        ConfigError: a path does not exist, or the modules are no such group.
    """
    fused = model if inplace else copy.deepcopy(model)
    groups = [modules_to_fuse] if modules_to_fuse and isinstance(modules_to_fuse[0], str) else modules_to_fuse
    own = own_fusers(fuse_custom_config_dict)
    for group in groups:
        paths = [str(path) for path in group]
        modules = [module_at(fused, path) for path in paths]
        if fuser_func is not None:
            put_fused(fused, paths, fuser_func(modules, True, own))
            continue
        kinds = tuple(type(module) for module in modules)
        made = own[kinds](True, *modules) if kinds in own else _fused(modules, paths)
        put_fused(fused, paths, (made, *(nn.Identity() for _ in paths[1:])))
    return fused


def _fused(modules: list[nn.Module], paths: Any) -> nn.Module:
    layer, *rest = modules
    if isinstance(layer, (*_WEIGHTED, *_NORMS)) and len(rest) == 1 and isinstance(rest[0], nn.ReLU):
        return FusedReLU(layer, rest[0])
    with_norm = isinstance(layer, _WEIGHTED) and rest and isinstance(rest[0], _NORMS)
    if with_norm and (len(rest) == 1 or (len(rest) == 2 and isinstance(rest[1], nn.ReLU))):
        return FusedBatchNorm(*modules)
    kinds = ", ".join(f"{path} ({type(module).__name__})" for path, module in zip(paths, modules, strict=True))
    raise ConfigError(
        f"fuse_modules_qat: {kinds} is no group that can be fused",
        remedy="groups are conv or linear, then batch norm, relu or both; or batch norm, then relu",
    )


def prepare_qat(model: _Model, mapping: Any = None, inplace: bool = False) -> _Model:
    """Make the modules that will be quantized round as they will.

    Args:
        model: in training mode, with QConfigs as attributes ``qconfig`` of itself or of modules in it.
        mapping: not implemented; for the signature.
        inplace: change ``model`` itself instead of a copy.

    Returns:
        A model to train, then to pass to ``convert``.

    Raises:
        ConfigError: the model is in evaluation mode, or no module has a QConfig. NotYetError: ``mapping`` was given, or
        a recurrent layer has a QConfig.
    """
    if mapping is not None:
        raise NotYetError("eager.prepare_qat takes no mapping yet", remedy="leave it out")
    if not model.training:
        raise ConfigError("eager.prepare_qat needs the model in training mode", remedy="call model.train() first")
    prepared = model if inplace else copy.deepcopy(model)
    propagate_qconfig_(prepared)
    made: dict[nn.Module, nn.Module] = {}
    _swap(prepared, "", made)
    if not made:
        raise ConfigError(
            "no module that can be quantized has a qconfig",
            remedy="set model.qconfig = fxquant.get_default_qat_qconfig('x86') before prepare_qat",
        )
    whole: Any = made.get(prepared, prepared)
    _follow_ranges(whole)
    return whole  # type: ignore[no-any-return]


def _swap(module: nn.Module, path: str, made: dict[nn.Module, nn.Module]) -> nn.Module:
    """The module in training in the place of ``module``, which may be itself."""
    if module in made:
        return made[module]
    role, qconfig = role_of(module), getattr(module, "qconfig", None)
    if isinstance(module, FusedBatchNorm) and qconfig is not None:
        made[module] = TrainedLayer(module[0], module[1], len(module) == 3, path)
    elif role.part is not Part.NONE:
        if qconfig is not None:
            made[module] = _trained(module, role, path)
    elif not isinstance(module, OPAQUE):
        for name, child in list(module.named_children()):
            module._modules[name] = _swap(child, f"{path}.{name}".strip("."), made)
    return made.get(module, module)


def _trained(module: Any, role: Role, path: str) -> nn.Module:
    if role.part is Part.RECURRENT:
        raise NotYetError(
            "recurrent layers cannot be trained quantized yet",
            module_path=path,
            remedy="set its attribute qconfig to None",
        )
    if role.part is Part.WEIGHTED and not mode_of(module.qconfig):
        if module is not role.layer:
            role.layer.qconfig = module.qconfig
        return TrainedLayer(role.layer, None, role.relu, path)
    if role.part is Part.FUNCTIONAL:
        setattr(module, OBSERVER, as_fake_quantize(module.qconfig.activation()))
    elif role.is_observed:
        module.add_module(OBSERVER, as_fake_quantize(module.qconfig.activation()))
        module.register_forward_hook(RoundOutput(path))
    return module  # type: ignore[no-any-return]


def deploy(model: Any) -> Any:
    """Put the layers as they will run in the place of those in training, in place; returns the model."""
    if isinstance(model, TrainedLayer):
        return model.deployed()
    made: dict[nn.Module, nn.Module] = {}
    for parent in list(model.modules()):
        for key, hook in list(parent._forward_hooks.items()):
            if isinstance(hook, KeepRange) or hook is _write_range:
                del parent._forward_hooks[key]
        for name, child in parent._modules.items():
            if isinstance(child, TrainedLayer):
                made[child] = made.get(child) or child.deployed()
                parent._modules[name] = made[child]
    return model
