"""Write a model to a file."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from fxquant.errors import FxquantError
from fxquant.ir import records
from fxquant.ir.stages import StageModule
from fxquant.storage.check_graph import require_savable
from fxquant.storage.container import FORMAT, write_file
from fxquant.storage.module_table import ModuleWriter
from fxquant.version import __version__


def save(model: StageModule, path: str | os.PathLike[str]) -> None:
    """Write a quantized model to one file: plain tensors and JSON, which ``load`` reads without executing any of it.

    Weights are stored as integers and packed when they are loaded, for the CPU that is found then. The plan and where
    everything came from are stored too, so that ``explain``, ``graph_diff`` and ``profile`` work on what is loaded.
    Parts of the model that run as the user's own Python are stored by name; loading needs them to be importable.

    Args:
        model: from ``quantize``, ``convert_fx`` or ``convert_to_reference_fx``; it is not changed.
        path: of the file; an existing one is replaced.

    Raises:
        FxquantError: ``model`` is something else, or holds what such a file cannot; the message names it.
    """
    if not isinstance(model, StageModule):
        raise FxquantError(
            f"save needs a model that fxquant made, got {type(model).__name__}",
            remedy="pass what quantize or convert_fx returned; torch.save holds float models",
        )
    writer = ModuleWriter()
    number = writer.add(model, "")
    for part in model.modules():
        if isinstance(part, StageModule):
            require_savable(records.from_graph(part.graph), bool(writer.required))
    tensors, regions, data = writer.tensors.finish()
    document = {
        "format": FORMAT,
        "fxquant": __version__,
        "torch": torch.__version__,
        "stage": model.stage,
        "model": number,
        "needs": writer.required,
        "modules": writer.rows,
        "tensors": tensors,
        "regions": regions,
    }
    write_file(Path(path), document, data)
