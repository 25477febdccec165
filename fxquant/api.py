"""The calls: torch.ao's names and signatures, and one call for people who do not want to know."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import nn

from fxquant import pipeline
from fxquant.backends.select import default_engine, read_limits, require_same_backend, select_backend
from fxquant.calibration import calibrate, example_of
from fxquant.capture.inputs import split_inputs
from fxquant.capture.pause_collector import collector_paused
from fxquant.check.require_module import require_module
from fxquant.errors import ConfigError, ConvertError, NotYetError
from fxquant.ir.stages import FakeQuantizedModel, FusedModel, ObservedModel, QuantizedModel, ReferenceModel
from fxquant.passes.find_original_weights import find_original_weights
from fxquant.passes.preserve_attributes import preserve_attributes, require_attributes
from fxquant.passes.start_ranges import start_ranges
from fxquant.plan.demote_unit import Demotion
from fxquant.qconfig import (
    ConvertCustomConfig,
    FuseCustomConfig,
    PrepareCustomConfig,
    QConfigMapping,
    as_mapping,
    get_default_dynamic_qconfig_mapping,
    get_default_qconfig_mapping,
)
from fxquant.standalone import Settings, prepare


@collector_paused()
def prepare_fx(
    model: nn.Module,
    qconfig_mapping: Any,
    example_inputs: Any,
    prepare_custom_config: Any = None,
    _equalization_config: Any = None,
    backend_config: Any = None,
    *,
    strict_trace: bool = False,
) -> ObservedModel:
    """Capture ``model``, plan its quantization and insert observers.

    Args:
        model: float model in eval mode; it is not changed.
        qconfig_mapping: a QConfigMapping (fxquant's or torch.ao's), or one QConfig for everything.
        example_inputs: a tuple of positional inputs, a dict of keyword inputs, or one tensor.
        prepare_custom_config: a PrepareCustomConfig, fxquant's or torch.ao's, or its dictionary: modules to leave
            alone, to prepare on their own, or to replace; inputs and outputs that are integers; preserved attributes.
        backend_config: an engine's name (x86, fbgemm, onednn, qnnpack), or a BackendConfig, fxquant's or torch.ao's,
            which says what may be quantized. The default engine is the mapping's, else torch's current one.
        strict_trace: raise where the model does something that no graph can hold, such as a branch on a tensor's
            values. Without it the smallest part around runs as Python, in float, and ``plan.notes`` and ``explain``
            say which part and why.

    Returns:
        A model to run calibration data through, then to pass to ``convert_fx``.

    Raises:
        CaptureError: the model cannot be captured. ConfigError: an entry matches nothing or cannot be honoured, or the
        model is in training mode. NotYetError: an entry this version does not implement.
    """
    if _equalization_config is not None:
        raise NotYetError("_equalization_config is not implemented yet", remedy="leave it out")
    require_eval(model, "prepare_fx")
    settings = _read_settings(qconfig_mapping, prepare_custom_config, backend_config)
    return _prepare(model, example_inputs, replace(settings, strict_trace=strict_trace))


@collector_paused()
def prepare_qat_fx(
    model: nn.Module,
    qconfig_mapping: Any,
    example_inputs: Any,
    prepare_custom_config: Any = None,
    backend_config: Any = None,
    *,
    start_from: ObservedModel | None = None,
) -> FakeQuantizedModel:
    """Capture ``model``, plan its quantization as ``prepare_fx`` does, and make it round as it will when converted.

    The result trains like any module; ``.train()`` and ``.eval()`` work on it. In evaluation it computes what the
    converted model computes.

    Args:
        model: float model in any mode, which the result has too; it is not changed, nor is torch's random state.
        qconfig_mapping: see ``prepare_fx``; ``get_default_qat_qconfig_mapping()`` is the usual one.
        example_inputs, prepare_custom_config, backend_config: see ``prepare_fx``.
        start_from: the same network from ``prepare_fx``, calibrated: its ranges are what training begins with.

    Returns:
        A model to train, then to pass to ``convert_fx``. Its parameters are copies: give the optimizer these.

    Raises:
        CaptureError, ConfigError: as in ``prepare_fx``. NotYetError: a recurrent layer has a qconfig.
    """
    require_module(model)
    settings = _read_settings(qconfig_mapping, prepare_custom_config, backend_config)
    prepared = _prepare(model, example_inputs, replace(settings, trains=True))
    assert isinstance(prepared, FakeQuantizedModel)
    if start_from is not None:
        start_ranges(prepared, start_from)
    return prepared


def _read_settings(qconfig_mapping: Any, prepare_custom_config: Any, backend_config: Any) -> Settings:
    mapping = as_mapping(qconfig_mapping)
    backend = select_backend(backend_config, mapping.backend)
    return Settings(mapping, PrepareCustomConfig.of(prepare_custom_config), backend, read_limits(backend_config))


def _prepare(model: nn.Module, example_inputs: Any, settings: Settings) -> ObservedModel:
    if example_inputs is None:
        raise ConfigError("preparing a model needs example_inputs", remedy="pass a tuple of typical inputs")
    require_attributes(model, settings.custom.preserved_attributes)
    observed = prepare(model, example_inputs, settings)
    observed.example_inputs = split_inputs(example_inputs)
    return observed


@collector_paused()
def convert_to_reference_fx(
    graph_module: ObservedModel,
    convert_custom_config: Any = None,
    _remove_qconfig: bool = True,
    qconfig_mapping: Any = None,
    backend_config: Any = None,
) -> ReferenceModel:
    """Freeze a calibrated model into explicit quantize and dequantize operators on plain integer tensors.

    Args:
        graph_module: from ``prepare_fx``, calibrated; it is not changed and can be converted again.
        convert_custom_config: a ConvertCustomConfig, fxquant's or torch.ao's, or its dictionary: preserved attributes.
            Custom modules stay observed and in float between quantize and dequantize, so their classes are not needed.
        _remove_qconfig: accepted for compatibility; quantized models carry no qconfig attributes.
        qconfig_mapping: entries that are None keep their operators float; nothing can be added here.
        backend_config: accepted where it is what the model was prepared for.

    Raises:
        CalibrationError: an observer saw no data. ConvertError: ``graph_module`` is not from ``prepare_fx``.
        ConfigError: an attribute to preserve does not exist; the model was prepared for another backend.
    """
    return _freeze(graph_module, convert_custom_config, qconfig_mapping, backend_config).compiled()


@collector_paused()
def convert_fx(
    graph_module: ObservedModel,
    convert_custom_config: Any = None,
    _remove_qconfig: bool = True,
    qconfig_mapping: Any = None,
    backend_config: Any = None,
    keep_original_weights: bool = False,
    verify: bool = False,
) -> QuantizedModel:
    """Freeze a calibrated model and replace its operators by int8 kernels for the CPU.

    Arguments and errors are those of ``convert_to_reference_fx``, and these.

    Args:
        convert_custom_config: also the classes that custom modules become.
        keep_original_weights: keep, as ``original_weights_lookup`` of the result, what the int8 weights were made from:
            by unit (the names ``explain`` shows) a list of the float weight, batch norm folded, and the bias or None.
        verify: run the example inputs of ``prepare_fx`` through float, reference and quantized model, node by node;
            operators whose kernel leaves the reference by more than a quantum get another, or compute in float, and
            ``explain`` says so.

    Raises:
        ConfigError: a custom module has no class that computes on integers.
        ConvertError: ``verify``, and the model was loaded from a file, which does not hold the example inputs.
    """
    custom = ConvertCustomConfig.of(convert_custom_config)

    def freeze(demotions: list[Demotion]) -> ReferenceModel:
        return _freeze(graph_module, custom, qconfig_mapping, backend_config, demotions)

    reference, quantized = pipeline.convert(graph_module, freeze, custom.quantized_classes, verify)
    if keep_original_weights:
        quantized.original_weights_lookup = find_original_weights(graph_module, reference)
    return quantized


def _freeze(
    graph_module: ObservedModel,
    convert_custom_config: Any,
    qconfig_mapping: Any,
    backend_config: Any,
    demotions: list[Demotion] | None = None,
) -> ReferenceModel:
    if not isinstance(graph_module, ObservedModel):
        raise ConvertError(
            f"expected a model from prepare_fx or prepare_qat_fx, got {type(graph_module).__name__}",
            remedy="call prepare_fx(model, qconfig_mapping, example_inputs) and calibrate its result",
        )
    require_same_backend(graph_module.plan, backend_config)
    preserved = ConvertCustomConfig.of(convert_custom_config).preserved_attributes
    require_attributes(graph_module, preserved)
    excluding = None if qconfig_mapping is None else as_mapping(qconfig_mapping)
    return preserve_attributes(pipeline.freeze(graph_module, excluding, demotions), graph_module, preserved)


def fuse_fx(
    model: nn.Module,
    fuse_custom_config: Any = None,
    backend_config: Any = None,
    *,
    example_inputs: Any = None,
) -> FusedModel:
    """Fold batch norms into the convolutions and linears before them, in float.

    Args:
        model: float model in eval mode; it is not changed.
        fuse_custom_config: a FuseCustomConfig, fxquant's or torch.ao's, or its dictionary: preserved attributes.
        backend_config: a BackendConfig: only groups that it lists are fused. The name of an engine changes nothing.
        example_inputs: as in ``prepare_fx``; without them the model is traced as plain torch.fx would, and only rules
            that need no shapes fire.
    """
    require_eval(model, "fuse_fx")
    preserved = FuseCustomConfig.of(fuse_custom_config).preserved_attributes
    require_attributes(model, preserved)
    return pipeline.fuse(pipeline.capture(model, example_inputs, preserved=preserved), read_limits(backend_config))


def quantize(
    model: nn.Module,
    calibration_data: Iterable[Any] | None = None,
    *,
    example_inputs: Any = None,
    qconfig_mapping: QConfigMapping | Any = None,
    backend: str = "auto",
    strict: bool = True,
    progress: bool = True,
    verify: bool = True,
    dynamic: bool = False,
    strict_trace: bool = False,
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
        verify: as in ``convert_fx``; it costs about as much as calibrating with two more batches.
        dynamic: quantize activations when they arrive, weights ahead of time, and calibrate nothing: ``example_inputs``
            takes the place of ``calibration_data``. The default mapping is ``get_default_dynamic_qconfig_mapping``'s.
        strict_trace: as in ``prepare_fx``.

    Raises:
        CalibrationError: no data, NaN or infinity, or batches that do not fit ``forward``.
        ConfigError: the configuration does not fit the model. CaptureError: the model cannot be captured.
    """
    require_data(calibration_data, example_inputs, dynamic)
    require_eval(model, "quantize")
    engine = default_engine() if backend == "auto" else backend
    default = get_default_dynamic_qconfig_mapping if dynamic else get_default_qconfig_mapping
    mapping = default(engine) if qconfig_mapping is None else as_mapping(qconfig_mapping)
    example, batches = example_inputs, None
    if calibration_data is not None:
        example, batches = example_of(model, calibration_data, example_inputs)
    observed = prepare_fx(model, mapping, example, backend_config=engine, strict_trace=strict_trace)
    unmatched = [note for note in observed.plan.notes if note.startswith("set_") and note.endswith("matched nothing")]
    if strict and qconfig_mapping is not None and unmatched:
        raise ConfigError("; ".join(unmatched), remedy="correct the entry, or pass strict=False")
    if batches is not None:
        calibrate(observed, batches, progress=progress)
    return convert_fx(observed, verify=verify)


def require_data(calibration_data: Any, example_inputs: Any, dynamic: bool) -> None:
    """Raise unless ``quantize`` was given the data that its kind of quantization needs, and no other.

    Raises:
        ConfigError: naming what is missing, or too much.
    """
    if dynamic and calibration_data is not None:
        raise ConfigError(
            "dynamic=True calibrates nothing, and calibration_data was given",
            remedy="pass example_inputs alone, or leave dynamic out",
        )
    if dynamic and example_inputs is None:
        raise ConfigError("dynamic=True needs example_inputs", remedy="pass a tuple of typical inputs")
    if not dynamic and calibration_data is None:
        raise ConfigError(
            "quantize needs calibration_data to find the ranges of activations",
            remedy="pass a few dozen typical inputs, or dynamic=True and example_inputs",
        )


def require_eval(model: Any, caller: str) -> None:
    """Raise when ``model`` is no module of the user's, or in training mode.

    Raises:
        CaptureError, ConfigError: with what to pass or call instead.
    """
    require_module(model)
    if model.training:
        raise ConfigError(
            f"{caller} needs the model in eval mode; it is in training mode",
            remedy="call model.eval() first; to train it quantized, use prepare_qat_fx",
        )
