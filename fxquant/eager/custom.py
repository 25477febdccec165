"""Modules that are observed or quantized by classes of the user's own, and the tables that name them.

Before::

    block: Block                # with a QConfig

After ``prepare`` and ``convert`` with a custom config that maps Block to ObservedBlock to QuantizedBlock::

    block: ObservedBlock        # ObservedBlock.from_float(block)
    block: QuantizedBlock       # QuantizedBlock.from_observed(observed)
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from fxquant.eager.functional import FloatFunctional
from fxquant.eager.fuse_modules import FusedReLU
from fxquant.eager.stubs import DeQuantStub, QuantStub
from fxquant.errors import ConfigError
from fxquant.ops.opened_modules import row_of_module

OBSERVED_BY, QUANTIZED_BY = "float_to_observed_custom_module_class", "observed_to_quantized_custom_module_class"
_NOT_SEEN_INTO = ("non_traceable_module_name", "non_traceable_module_class")
_HANDLED = (nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)
_DYNAMIC = (nn.Linear, nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell, nn.RNNCell, nn.Embedding, nn.EmbeddingBag)


class OwnKernel:
    """In a table of classes: the module becomes what the operator catalogue has for it."""


def custom_classes(config: Mapping[str, Any] | None, key: str) -> dict[type[nn.Module], Any]:
    """The classes that a custom config names under ``key``.

    Entries for recurrent layers and attention of torch.nn are left out: those are quantized without them.

    Raises:
        ConfigError: the config has other keys, or is something else than a dictionary.
    """
    if config is None:
        return {}
    known = (OBSERVED_BY, QUANTIZED_BY, *_NOT_SEEN_INTO)
    if not isinstance(config, Mapping) or any(name not in known for name in config):
        raise ConfigError(
            f"a custom config of the eager style is a dictionary with the key {key!r}, and this is {config!r}",
            remedy="write {" + repr(key) + ": {Given: Made}}, or use prepare_fx with a PrepareCustomConfig",
        )
    given = dict(config.get(key, {}))
    if key == QUANTIZED_BY:
        return {kind: made for kind, made in given.items() if not kind.__module__.startswith("torch.ao.nn.")}
    return {kind: made for kind, made in given.items() if kind not in _HANDLED and not issubclass(kind, _HANDLED)}


def is_users(kind: Any) -> bool:
    """Whether a class of a table makes quantized modules itself; torch.ao's stand for what the catalogue has."""
    return hasattr(kind, "from_float") and not kind.__module__.startswith("torch.ao.nn.")


def made_by(kind: Any, method: str, module: nn.Module, path: str) -> nn.Module:
    """``kind.method(module)``, with its QConfig.

    Raises:
        ConfigError: the class has no such method.
    """
    make = getattr(kind, method, None)
    if make is None:
        raise ConfigError(
            f"{kind.__name__} has no class method {method}", module_path=path, remedy="write one that takes the module"
        )
    made: nn.Module = make(module)
    if getattr(made, "qconfig", None) is None:
        made.qconfig = module.qconfig
    return made


def get_default_custom_config_dict() -> dict[str, dict[type[nn.Module], Any]]:
    """A custom config without entries: recurrent layers and attention are quantized without them."""
    return {OBSERVED_BY: {}, QUANTIZED_BY: {}}


def get_default_static_quant_module_mappings() -> dict[type[nn.Module], Any]:
    """The module classes that ``convert`` swaps; add ``YourModule: YourQuantizedModule``, which has ``from_float``."""
    known = [kind for _, kind in inspect.getmembers(nn, inspect.isclass) if row_of_module(kind) is not None]
    return dict.fromkeys((*known, QuantStub, DeQuantStub, FloatFunctional, FusedReLU), OwnKernel)


def get_default_dynamic_quant_module_mappings() -> dict[type[nn.Module], Any]:
    """The module classes that ``quantize_dynamic`` swaps by default, embeddings included; as the static ones."""
    return dict.fromkeys(_DYNAMIC, OwnKernel)
