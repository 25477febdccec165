"""Fusion by hand: batch norms folded into the layers before them, relus observed together with them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from torch import nn

from fxquant.errors import ConfigError
from fxquant.numerics.batch_norm import fold_batch_norm

_Model = TypeVar("_Model", bound=nn.Module)

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, *_TRANSPOSED)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


HOOKS = (
    "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs",
    "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called",
)  # fmt: skip
"""Where a module keeps its hooks."""


class FusedReLU(nn.Sequential):
    """A layer and the relu after it, observed as one.

    Args:
        layer: a convolution, linear or batch norm.
        relu: the relu.
    """

    def __init__(self, layer: nn.Module, relu: nn.Module) -> None:
        super().__init__(layer, relu)

    def forward(self, input: Any) -> Any:
        """Call both; observers, which are children too, are called by hooks."""
        return self[1](self[0](input))


def fuse_modules(
    model: _Model,
    modules_to_fuse: Sequence[str] | Sequence[Sequence[str]],
    inplace: bool = False,
    fuser_func: Callable[..., Sequence[nn.Module]] | None = None,
    fuse_custom_config_dict: Mapping[str, Any] | None = None,
) -> _Model:
    """Fuse modules that ``forward`` calls one after another, as named.

    The first of a group becomes the fused module, the others ``nn.Identity``.

    Args:
        model: in eval mode, where batch norms are folded.
        modules_to_fuse: one group of paths, or several: convolution (ordinary or transposed) or linear, then batch
            norm, relu, or both; or batch norm, then relu.
        inplace: change ``model`` itself instead of a copy.
        fuser_func: called as ``fuser_func(modules, is_qat, additional_fuser_method_mapping)`` instead of all this;
            returns what takes the place of each module.
        fuse_custom_config_dict: ``{"additional_fuser_method_mapping": {(type, ...): make}}``: the fused module of
            such a group is ``make(is_qat, *modules)``.

    Raises:
        ConfigError: a path does not exist, the modules are no such group, or a batch norm is in training mode.
    """
    fused = model if inplace else copy.deepcopy(model)
    groups = [modules_to_fuse] if modules_to_fuse and isinstance(modules_to_fuse[0], str) else modules_to_fuse
    own = own_fusers(fuse_custom_config_dict)
    for group in groups:
        paths = [str(path) for path in group]
        modules = [module_at(fused, path) for path in paths]
        if fuser_func is not None:
            put_fused(fused, paths, fuser_func(modules, False, own))
            continue
        kinds = tuple(type(module) for module in modules)
        made = own[kinds](False, *modules) if kinds in own else _fused(modules, paths)
        put_fused(fused, paths, (_with_hooks(made, modules), *(nn.Identity() for _ in paths[1:])))
    return fused


def own_fusers(config: Mapping[str, Any] | None) -> dict[tuple[type, ...], Callable[..., nn.Module]]:
    """What makes fused modules of the user's own groups, by their classes.

    Raises:
        ConfigError: the config has other keys.
    """
    key = "additional_fuser_method_mapping"
    if any(name != key for name in config or ()):
        raise ConfigError(
            f"fuse_custom_config_dict has the key {key!r} only, and this has {', '.join(map(repr, config or ()))}",
            remedy=f"write {{{key!r}: {{(nn.Conv2d, nn.ReLU): make}}}}",
        )
    return dict((config or {}).get(key, {}))


def put_fused(model: nn.Module, paths: Sequence[str], made: Sequence[nn.Module]) -> None:
    """Put the fused modules in the place of a group."""
    for path, module in zip(paths, made, strict=True):
        module.train(model.training)
        model.set_submodule(path, module)


def _with_hooks(made: nn.Module, modules: list[nn.Module]) -> nn.Module:
    """The fused module with the hooks of the first module's input and the last one's output."""
    if made in modules:
        return made
    first: Any = modules[0]._forward_pre_hooks
    for key, hook in first.items():
        made.register_forward_pre_hook(hook, with_kwargs=key in modules[0]._forward_pre_hooks_with_kwargs)
    last: Any = modules[-1]._forward_hooks
    for key, hook in last.items():
        made.register_forward_hook(hook, with_kwargs=key in modules[-1]._forward_hooks_with_kwargs)
    return made


def module_at(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise ConfigError(
            f"fuse_modules: no module is called {path!r}", remedy="write paths as in named_modules()"
        ) from error


def _fused(modules: list[nn.Module], paths: list[str]) -> nn.Module:
    """One module that computes what the group computes."""
    layer, *rest = modules
    relu = rest.pop() if rest and isinstance(rest[-1], nn.ReLU) else None
    norm = rest.pop() if rest and isinstance(layer, _WEIGHTED) and isinstance(rest[-1], _NORMS) else None
    if rest or (relu is None and norm is None) or not isinstance(layer, (*_WEIGHTED, *_NORMS)):
        kinds = ", ".join(f"{path} ({type(module).__name__})" for path, module in zip(paths, modules, strict=True))
        raise ConfigError(
            f"fuse_modules: {kinds} is no group that can be fused",
            remedy="groups are conv or linear, then batch norm, relu or both; or batch norm, then relu",
        )
    if norm is not None and any(module.training for module in modules):
        raise ConfigError(
            f"fuse_modules: {paths[0]} is in training mode, and folding needs final statistics",
            module_path=paths[0],
            remedy="call model.eval() first",
        )
    folded = layer if norm is None else _folded(layer, norm, paths)
    clean = copy.copy(folded) if folded is layer else folded
    for name in HOOKS:
        setattr(clean, name, type(getattr(layer, name))())
    return clean if relu is None else FusedReLU(clean, nn.ReLU())


def _folded(layer: Any, norm: Any, paths: list[str]) -> nn.Module:
    if norm.running_mean is None:
        raise ConfigError(
            f"fuse_modules: {paths[1]} has no running statistics, so it cannot be folded", module_path=paths[1]
        )
    transposed = isinstance(layer, _TRANSPOSED)
    weight, bias = fold_batch_norm(
        layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps,
        channel_axis=1 if transposed else 0, groups=layer.groups if transposed else 1,
    )  # fmt: skip
    made = copy.deepcopy(layer)
    made.weight, made.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    return made  # type: ignore[no-any-return]
