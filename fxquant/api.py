"""The calls: torch.ao's names and signatures, and one call for people who do not want to know."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from fxquant import pipeline
from fxquant.backends.select import default_engine, select_backend
from fxquant.calibration import calibrate, example_of
from fxquant.errors import ConfigError, ConvertError, NotYetError
from fxquant.ir.stages import FusedModel, ObservedModel, QuantizedModel, ReferenceModel
from fxquant.qconfig import (
    ConvertCustomConfig,
    FuseCustomConfig,
    PrepareCustomConfig,
    QConfigMapping,
    as_mapping,
    get_default_qconfig_mapping,
)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Keep Python's cyclic garbage collector from scanning the graphs a call builds, over and over, while it runs."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@_collector_paused()
def prepare_fx(
    model: nn.Module,
    qconfig_mapping: Any,
    example_inputs: Any,
    prepare_custom_config: PrepareCustomConfig | None = None,
    _equalization_config: Any = None,
    backend_config: Any = None,
) -> ObservedModel:
    """Capture ``model``, plan its quantization and insert observers.

    Args:
        model: float model in eval mode; it is not changed.
        qconfig_mapping: a QConfigMapping (fxquant's or torch.ao's), or one QConfig for everything.
        example_inputs: a tuple of positional inputs, a dict of keyword inputs, or one tensor.
        prepare_custom_config: non-traceable modules and preserved attributes.
        backend_config: engine name (x86, fbgemm, onednn, qnnpack); default: the mapping's, else torch's current one.

    Returns:
        A model to run calibration data through, then to pass to ``convert_fx``.

    Raises:
        CaptureError: the model cannot be captured. ConfigError: a module name matches nothing, or the model is in
        training mode. NotYetError: an entry this version does not implement.
    """
    if _equalization_config is not None:
        raise NotYetError("_equalization_config is not implemented yet", remedy="leave it out")
    require_eval(model, "prepare_fx")
    if example_inputs is None:
        raise ConfigError("prepare_fx needs example_inputs", remedy="pass a tuple of typical inputs")
    custom = prepare_custom_config or PrepareCustomConfig()
    mapping = as_mapping(qconfig_mapping)
    captured = pipeline.capture(
        model,
        example_inputs,
        leaf_names=custom.non_traceable_module_names,
        leaf_classes=custom.non_traceable_module_classes,
        preserved=custom.preserved_attributes,
    )
    return pipeline.observe(captured, mapping, select_backend(backend_config, mapping.backend))


@_collector_paused()
def convert_to_reference_fx(
    graph_module: ObservedModel,
    convert_custom_config: ConvertCustomConfig | None = None,
    _remove_qconfig: bool = True,
    qconfig_mapping: Any = None,
    backend_config: Any = None,
) -> ReferenceModel:
    """Freeze a calibrated model into explicit quantize and dequantize operators on plain integer tensors.

    Args:
        graph_module: from ``prepare_fx``, calibrated; it is not changed and can be converted again.
        convert_custom_config: preserved attributes.
        _remove_qconfig: accepted for compatibility; results carry no qconfig attributes.
        qconfig_mapping: entries that are None keep their operators float; nothing can be added here.
        backend_config: accepted for compatibility; the backend was chosen at prepare.

    Raises:
        CalibrationError: an observer saw no data. ConvertError: ``graph_module`` is not from ``prepare_fx``.
    """
    if not isinstance(graph_module, ObservedModel):
        raise ConvertError(
            f"expected a model from prepare_fx, got {type(graph_module).__name__}",
            remedy="call prepare_fx(model, qconfig_mapping, example_inputs) and calibrate its result",
        )
    excluding = None if qconfig_mapping is None else as_mapping(qconfig_mapping)
    return pipeline.freeze(graph_module, excluding)


@_collector_paused()
def convert_fx(
    graph_module: ObservedModel,
    convert_custom_config: ConvertCustomConfig | None = None,
    _remove_qconfig: bool = True,
    qconfig_mapping: Any = None,
    backend_config: Any = None,
    keep_original_weights: bool = False,
) -> QuantizedModel:
    """Freeze a calibrated model and replace its operators by int8 kernels for the CPU.

    Arguments and errors are those of ``convert_to_reference_fx``.

    Raises:
        NotYetError: ``keep_original_weights`` is set.
    """
    if keep_original_weights:
        raise NotYetError("keep_original_weights is not implemented yet", remedy="keep the float model yourself")
    return pipeline.lower(
        convert_to_reference_fx(graph_module, convert_custom_config, _remove_qconfig, qconfig_mapping, backend_config)
    )


def fuse_fx(
    model: nn.Module,
    fuse_custom_config: FuseCustomConfig | None = None,
    backend_config: Any = None,
    *,
    example_inputs: Any = None,
) -> FusedModel:
    """Fold batch norms into the convolutions and linears before them, in float.

    Args:
        model: float model in eval mode; it is not changed.
        fuse_custom_config: preserved attributes.
        backend_config: accepted for compatibility.
        example_inputs: as in ``prepare_fx``; without them the model is traced as plain torch.fx would, and only rules
            that need no shapes fire.
    """
    require_eval(model, "fuse_fx")
    custom = fuse_custom_config or FuseCustomConfig()
    captured = pipeline.capture(model, example_inputs, preserved=custom.preserved_attributes)
    return pipeline.fuse(captured)


def quantize(
    model: nn.Module,
    calibration_data: Iterable[Any] | None = None,
    *,
    example_inputs: Any = None,
    qconfig_mapping: QConfigMapping | Any = None,
    backend: str = "auto",
    strict: bool = True,
    progress: bool = True,
) -> QuantizedModel:
    """Quantize ``model`` in one call.

    Args:
        model: float model in eval mode; it is not changed.
        calibration_data: any iterable of tensors, tuples, dicts, or (input, label) pairs; a few dozen inputs do.
        example_inputs: default: the first batch.
        qconfig_mapping: default: ``get_default_qconfig_mapping`` of the backend.
        backend: ``auto``, or an engine: x86, fbgemm, onednn, qnnpack.
        strict: raise when an object type the user configured matches nothing; names always raise.
        progress: show a progress bar on terminals.

    Raises:
        CalibrationError: no data, NaN or infinity, or batches that do not fit ``forward``.
        ConfigError: the configuration does not fit the model. CaptureError: the model cannot be captured.
    """
    if calibration_data is None:
        raise NotYetError(
            "quantize without calibration data (dynamic quantization) is not implemented yet",
            remedy="pass calibration_data: a few dozen typical inputs",
        )
    require_eval(model, "quantize")
    engine = default_engine() if backend == "auto" else backend
    mapping = get_default_qconfig_mapping(engine) if qconfig_mapping is None else as_mapping(qconfig_mapping)
    example, batches = example_of(model, calibration_data, example_inputs)
    observed = prepare_fx(model, mapping, example, backend_config=engine)
    unmatched = [note for note in observed.plan.notes if note.startswith("set_object_type")]
    if strict and qconfig_mapping is not None and unmatched:
        raise ConfigError("; ".join(unmatched), remedy="correct the entry, or pass strict=False")
    calibrate(observed, batches, progress=progress)
    return convert_fx(observed)


def require_eval(model: Any, caller: str) -> None:
    """Raise when ``model`` is in training mode.

    Raises:
        ConfigError: with what to call instead.
    """
    if isinstance(model, nn.Module) and model.training:
        raise ConfigError(
            f"{caller} needs the model in eval mode; it is in training mode",
            remedy="call model.eval() first (quantization-aware training is not in this version)",
        )
