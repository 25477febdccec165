"""Recurrent layers and cells: each module is one operator, whatever it is called with."""

from __future__ import annotations

from torch import nn

from fxquant.ops.opdef import FloatOnly, Kernel, OpDef

_WHY = FloatOnly(
    "recurrent layers stay float where calibration finds the ranges, unless an entry names their type or their module"
)


def _row(kind: type[nn.Module], function: str) -> OpDef:
    """One row; a module without a kernel of its own runs step by step on those of linear."""
    steps = function.startswith("quantized.linear")
    return OpDef(
        name=kind.__name__.lower(),
        target=kind,
        signature="input, hx=None",
        modules=(kind,),
        output=_WHY,
        kernels={
            "native.static": Kernel("static_recurrent", "onednn.qlinear_pointwise"),
            "native.dynamic": Kernel("recurrent_steps" if steps else "recurrent", function),
            "native.float16": Kernel(
                "recurrent_steps_float16" if steps else "recurrent_float16",
                "quantized.linear_dynamic_fp16" if steps else function,
            ),
        },
        source=f"https://docs.pytorch.org/docs/stable/generated/torch.nn.{kind.__name__}.html",
    )


_STEPS = "quantized.linear_dynamic"
ROWS = (
    _row(nn.LSTM, "aten.quantized_lstm"),
    _row(nn.GRU, "aten.quantized_gru"),
    _row(nn.RNN, _STEPS),
    _row(nn.LSTMCell, _STEPS),
    _row(nn.GRUCell, _STEPS),
    _row(nn.RNNCell, _STEPS),
)

RECURRENT = frozenset(row.name for row in ROWS)
