"""Preparing a model together with the standalone modules in it: each is captured, planned and observed on its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from fxquant import pipeline
from fxquant.backends.native.backend import NativeBackend
from fxquant.backends.reference_modules import require_simple_output
from fxquant.backends.select import read_limits, select_backend
from fxquant.capture.inputs import copy_tensors, split_inputs
from fxquant.errors import ConfigError
from fxquant.ir.quant_plan import CUSTOM, STANDALONE
from fxquant.ir.stages import CapturedModel, ObservedModel
from fxquant.passes.follow_mode import OfModule
from fxquant.plan.backend_limits import BackendLimits
from fxquant.plan.find_leaf_modules import called_modules, custom_paths, is_named, standalone_entries, unmatched_notes
from fxquant.plan.leaf_modules import LeafModule
from fxquant.plan.request import PlanRequest
from fxquant.qconfig import PrepareCustomConfig, QConfigMapping, StandaloneModuleConfigEntry


@dataclass(frozen=True)
class Settings:
    """How one model, or one standalone module, is prepared.

    Attributes:
        mapping: its configuration.
        custom: its custom config.
        backend: the backend to plan for.
        limits: what a BackendConfig allows, None for everything.
        path: of a standalone module in the whole model, "" for the whole.
        config_prefix: path from where ``mapping``'s names start, "" when they start here.
        matched: entries of ``mapping``, by type or order, that matched something so far.
        strict_trace: raise where a part of the model would run as Python.
        trains: whether to prepare for quantization-aware training.
    """

    mapping: QConfigMapping
    custom: PrepareCustomConfig
    backend: NativeBackend
    limits: BackendLimits | None = None
    path: str = ""
    config_prefix: str = ""
    matched: set[Any] = field(default_factory=set)
    strict_trace: bool = False
    trains: bool = False


def prepare(model: nn.Module, example_inputs: Any, settings: Settings) -> ObservedModel:
    """Capture, plan and observe ``model`` and its standalone modules.

    Args:
        model: not changed.
        example_inputs: tuple, dict of keywords, or one tensor.
        settings: the configuration.

    Raises:
        CaptureError: the model cannot be captured. ConfigError: an entry matches nothing, or cannot be honoured.
    """
    custom = settings.custom
    entries = standalone_entries(model, custom)
    capture = pipeline.capture_for_training if settings.trains else pipeline.capture
    captured = capture(
        model,
        example_inputs,
        leaf_names=(*custom.non_traceable_module_names, *entries, *custom_paths(model, custom)),
        leaf_classes=custom.non_traceable_module_classes,
        strict=settings.strict_trace,
        preserved=custom.preserved_attributes,
        path=settings.path,
        config_prefix=settings.config_prefix,
    )
    _require_float32_borders(captured, custom)
    parts = _prepare_parts(captured, model, example_inputs, entries, settings)
    request = _request(captured, model, parts, settings)
    observed = pipeline.observe(captured, request, parts, custom.observed_classes, settings.trains)
    if settings.path:
        require_simple_output(observed)
    if settings.trains:
        _take_modes(observed, model)
    return observed


def prepare_float(model: nn.Module, example_inputs: Any) -> ObservedModel:
    """``model`` as it is prepared for training, with nothing to quantize.

    Args:
        model, example_inputs: as for ``prepare``.

    Raises:
        CaptureError: the model cannot be captured.
    """
    mapping = QConfigMapping()
    settings = Settings(mapping, PrepareCustomConfig(), select_backend(None, mapping.backend), trains=True)
    return prepare(model, example_inputs, settings)


def _take_modes(prepared: nn.Module, model: nn.Module) -> None:
    """Training or evaluation mode of every module, as in the user's model; what is new follows the whole."""
    modes = {name: module.training for name, module in model.named_modules(remove_duplicate=False)}
    for name, module in prepared.named_modules(remove_duplicate=False):
        origin = module.module_path if isinstance(module, OfModule) else name
        module.training = modes.get(origin, model.training)


def _request(
    captured: CapturedModel, model: nn.Module, parts: Mapping[str, ObservedModel], settings: Settings
) -> PlanRequest:
    custom, called = settings.custom, called_modules(captured)
    leaves = {path: _standalone_leaf(part, called[path]) for path, part in parts.items()}
    leaves |= {
        path: LeafModule(CUSTOM, kind.__name__)
        for path, (kind, _) in called.items()
        if kind in custom.observed_classes and path not in leaves
    }
    return PlanRequest(
        settings.mapping,
        settings.backend,
        settings.limits,
        leaves,
        tuple(custom.input_quantized_indexes),
        tuple(custom.output_quantized_indexes),
        given_inputs=bool(settings.path),
        matched=settings.matched,
        notes=(*captured.state.capture_notes, *unmatched_notes(model, called, custom), *_limit_notes(settings.limits)),
        static_recurrent=custom.static_recurrent,
    )


def _prepare_parts(
    captured: CapturedModel,
    model: nn.Module,
    example_inputs: Any,
    entries: Mapping[str, StandaloneModuleConfigEntry],
    settings: Settings,
) -> dict[str, ObservedModel]:
    """Observed standalone modules by path, each prepared with the inputs of its entry, else with those it is passed."""
    called = called_modules(captured)
    for path, entry in entries.items():
        if path not in called and is_named(entry, settings.custom):
            raise ConfigError(
                f"standalone module {path} is not called on the example inputs", remedy="take its entry out"
            )
    entries = {path: entry for path, entry in entries.items() if path in called}
    wanted = [path for path, entry in entries.items() if entry.example_inputs is None or entry.example_inputs == ()]
    passed = _passed_inputs(captured, example_inputs, wanted)
    parts = {}
    for path, entry in entries.items():
        module = captured.get_submodule(path)
        inputs = passed[path] if path in passed else copy_tensors(entry.example_inputs, _in_dtype_of(captured))
        parts[path] = prepare(module, inputs, _settings_of(path, entry, settings))
        _require_one_call(parts[path], path, called[path][1])
    return parts


def _in_dtype_of(captured: CapturedModel) -> Callable[[Tensor], Tensor]:
    """Converts the inputs of a part of a half-precision model, which is captured in float32."""
    half = captured.state.float_dtype
    return lambda tensor: tensor.float() if half is not None and tensor.dtype == half else tensor


def _settings_of(path: str, entry: StandaloneModuleConfigEntry, around: Settings) -> Settings:
    settings = replace(
        around,
        custom=entry.prepare_custom_config or PrepareCustomConfig(),
        path=f"{around.path}.{path}".strip("."),
        config_prefix=f"{around.config_prefix}.{path}".strip("."),
    )
    if entry.qconfig_mapping is not None:
        settings = replace(settings, mapping=entry.qconfig_mapping, config_prefix="", matched=set())
    if entry.backend_config is not None:
        backend = select_backend(entry.backend_config, settings.mapping.backend)
        settings = replace(settings, backend=backend, limits=read_limits(entry.backend_config))
    return settings


def _passed_inputs(captured: CapturedModel, example_inputs: Any, paths: list[str]) -> dict[str, Any]:
    """What the model passes to some of its modules at their first call: a tuple, or a dict where it uses keywords."""
    found: dict[str, Any] = {}

    def remember(path: str, module: nn.Module) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if path not in found:
                arguments = inspect.signature(module.forward).bind(*args, **kwargs).arguments if kwargs else args
                found[path] = copy_tensors(dict(arguments) if kwargs else tuple(arguments))

        return hook

    modules = {path: captured.get_submodule(path) for path in paths}
    handles = [
        module.register_forward_pre_hook(remember(path, module), with_kwargs=True) for path, module in modules.items()
    ]
    try:
        if paths:
            args, kwargs = split_inputs(example_inputs)
            with torch.no_grad():
                captured(*copy_tensors(args), **copy_tensors(kwargs))
    finally:
        for handle in handles:
            handle.remove()
    return found


def _standalone_leaf(part: ObservedModel, called: tuple[type[nn.Module], int]) -> LeafModule:
    placeholders = part.graph.find_nodes(op="placeholder")
    return LeafModule(
        STANDALONE,
        called[0].__name__,
        tuple(str(node.target) for node in placeholders),
        tuple(str(node.target) for node in placeholders if node.name in part.plan.quantized_inputs),
        bool(part.plan.quantized_outputs),
    )


def _require_one_call(part: ObservedModel, path: str, calls: int) -> None:
    if calls > 1 and part.plan.quantized_inputs:
        raise ConfigError(
            f"standalone module {path} takes integers and is called {calls} times: its callers' ranges may differ",
            module_path=path,
            remedy="take set_input_quantized_indexes out of its config, or give each call a module of its own",
        )


def _require_float32_borders(captured: CapturedModel, custom: PrepareCustomConfig) -> None:
    half = captured.state.float_dtype
    if half is not None and (custom.input_quantized_indexes or custom.output_quantized_indexes):
        raise ConfigError(
            f"quantized indexes are for float32 models, and this one is {half}", remedy="pass model.float()"
        )


def _limit_notes(limits: BackendLimits | None) -> tuple[str, ...]:
    return () if limits is None else (f"planned for {limits.title}: what it does not list stays float",)
