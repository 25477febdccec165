"""BackendConfigs of fxquant's own backends, generated from the operator catalogue and the fusion rules.

One pattern per operator that has a kernel, with floats on both sides or without, standing for every spelling, in
whatever group the fusion rules make. Operators without a kernel are not listed: listed or not, they are computed in
float between their neighbours.
"""

from __future__ import annotations

import torch

from fxquant.fusion.fuse_units import RULES
from fxquant.fusion.rule import WEIGHTED
from fxquant.ops import catalogue
from fxquant.ops.opdef import Fixed, Identity, OpDef, Query
from fxquant.passes.decompose_operators import DECOMPOSED
from fxquant.qconfig.backend_config import BackendConfig
from fxquant.qconfig.backend_pattern_config import BackendPatternConfig, ObservationType
from fxquant.qconfig.dtype_config import DTypeConfig, DTypeWithConstraints

_BACKEND = "native"
_BY_MODE = {
    "dynamic": DTypeConfig(torch.uint8, torch.float32, torch.int8, torch.float32, is_dynamic=True),
    "float16": DTypeConfig(torch.float16, torch.float32, torch.float16, torch.float32, is_dynamic=True),
    "weights": DTypeConfig(torch.float32, torch.float32, torch.uint8),
}


def get_native_backend_config() -> BackendConfig:
    """What the native backend runs as int8, whatever the engine."""
    config = BackendConfig(_BACKEND).set_every_group()
    return config.set_backend_pattern_configs([_pattern(row) for row in catalogue.all_rows() if _is_listed(row)])


def get_x86_backend_config() -> BackendConfig:
    """The same, choosing engine x86."""
    return get_native_backend_config().set_name("x86")


def get_fbgemm_backend_config() -> BackendConfig:
    """The same, choosing engine fbgemm."""
    return get_native_backend_config().set_name("fbgemm")


def get_onednn_backend_config() -> BackendConfig:
    """The same, choosing engine onednn."""
    return get_native_backend_config().set_name("onednn")


def get_qnnpack_backend_config() -> BackendConfig:
    """The same, choosing engine qnnpack."""
    return get_native_backend_config().set_name("qnnpack")


def _is_listed(row: OpDef) -> bool:
    """Whether the backend has an int8 kernel for it, for its parts or as part of another's, or need not have one."""
    helped = row.name in DECOMPOSED or row.name in _absorbed()
    has_kernel = any(name.partition(".")[0] == _BACKEND for name in row.kernels)
    return has_kernel or isinstance(row.output, (Query, Identity)) or helped


def _absorbed() -> frozenset[str]:
    return frozenset().union(*(rule.tails if rule.absorbs == "tail" else rule.heads for rule in RULES))


def _pattern(row: OpDef) -> BackendPatternConfig:
    config = BackendPatternConfig(row.target).set_every_spelling().set_observation_type(_observation(row))
    if isinstance(row.output, Query):
        return config
    by_mode = [dtypes for mode, dtypes in _BY_MODE.items() if f"{_BACKEND}.{mode}" in row.kernels]
    static = _BACKEND in row.kernels or not by_mode
    return config.set_dtype_configs([*([_dtypes(row)] if static else []), *by_mode])


def _observation(row: OpDef) -> ObservationType:
    if isinstance(row.output, Query):
        return ObservationType.INPUT_OUTPUT_NOT_OBSERVED
    if row.shares_range or isinstance(row.output, Identity):
        return ObservationType.OUTPUT_SHARE_OBSERVER_WITH_INPUT
    return ObservationType.OUTPUT_USE_DIFFERENT_OBSERVER_AS_INPUT


def _dtypes(row: OpDef) -> DTypeConfig:
    output = DTypeWithConstraints(torch.uint8)
    if isinstance(row.output, Fixed):
        exactly = {"scale_exact_match": row.output.scale, "zero_point_exact_match": row.output.zero_point}
        output = DTypeWithConstraints(torch.uint8, **exactly)  # type: ignore[arg-type]
    if row.name in WEIGHTED:
        return DTypeConfig(torch.uint8, output, torch.int8, torch.float32)
    return DTypeConfig(torch.uint8, output)
