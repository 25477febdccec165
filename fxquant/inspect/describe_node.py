"""Texts about single nodes of a stage: what they call, and the quantization parameters the model holds for them."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxquant.fusion.rule import WEIGHTED
from fxquant.inspect.side import INTEGER_STAGES, Side, is_added, is_watching, origins
from fxquant.ir.containers import KERNELS
from fxquant.ir.edit import get_tensor
from fxquant.ir.meta import NodeInfo, TensorMeta, info, qualified_name
from fxquant.ir.qdq import dequantize, quantize
from fxquant.ir.quant_plan import TensorSpec, Unit
from fxquant.observers.fake_quantize import FakeQuantize

_QUINT8 = TensorSpec(torch.uint8, 0, 255)


@dataclass(frozen=True)
class NodeText:
    """One node in words.

    Attributes:
        name: node name.
        text: what it computes: ``conv2d``, ``quantize``, ``quantized.conv2d [onednn]``.
        module_path: module of the user's model it came from.
        source: ``file:line`` of the user's code.
        shape: sizes of its value on the example inputs, None when it is no single tensor.
        label: what people call it: the name of its own module, ``conv1``, or what it computes, ``relu``.
        place: module of the user's model whose forward called it, or called its own module.
        outcome: ``int8``, ``step``, ``float`` or ``free`` as in ``explain``; ``border`` for conversions between floats
            and integers, ``observer``, ``input`` and ``output``.
        holds_integers: whether its value is int8.
        names_kernel: whether ``text`` names a kernel, which tells more than ``label``.
    """

    name: str
    text: str
    module_path: str = ""
    source: str = ""
    shape: tuple[int, ...] | None = None
    label: str = ""
    place: str = ""
    outcome: str = "float"
    holds_integers: bool = False
    names_kernel: bool = False

    def __str__(self) -> str:
        return self.name if self.text == self.name else f"{self.text} ({self.name})"


def describe(node: fx.Node, side: Side) -> NodeText:
    """Describe a node of one side."""
    facts = info(node)
    meta = facts.value if isinstance(facts.value, TensorMeta) else None
    shape = None if meta is None else meta.shape
    text, path = _text(node, side), facts.origin.module_path
    parent, _, last = path.rpartition(".")
    owns_module = facts.origin.from_torch_module and _is_call_of(path, origins(node)[-1])
    label = last if owns_module and not last.isdecimal() and not is_added(facts) else facts.op or text
    if node.op == "placeholder":
        label = f"input {node.name}"
    return NodeText(
        name=node.name,
        text=text,
        module_path=path,
        source=facts.origin.source,
        shape=shape,
        label=label,
        place=parent if owns_module else path,
        outcome=_outcome(node, side),
        holds_integers=_holds_integers(node, side),
        names_kernel=_is_lowered(facts),
    )


def _is_call_of(path: str, name: str) -> bool:
    """Whether a captured node is a call of the module at ``path``; later calls have a number."""
    known = path.replace(".", "_")
    return name == known or (name.startswith(f"{known}_") and name[len(known) + 1 :].isdecimal())


def _is_lowered(facts: NodeInfo) -> bool:
    return bool(facts.op) and facts.made_by.startswith("lower")


def _outcome(node: fx.Node, side: Side) -> str:
    """What became of it in a stage that computes on integers; before that, everything but observers is float."""
    if node.op in ("placeholder", "output"):
        return "input" if node.op == "placeholder" else "output"
    if is_watching(info(node)):
        return "observer"
    if is_added(info(node)):
        return "border"
    unit = side.unit_of(node)
    if unit is None or side.stage not in INTEGER_STAGES:
        return "float"
    return unit.outcome


def _holds_integers(node: fx.Node, side: Side) -> bool:
    if node.target is dequantize or node.target == "dequantize" or side.stage not in INTEGER_STAGES:
        return False
    if node.target is quantize or (is_added(info(node)) and bool(info(node).holds)):
        return True
    unit = side.unit_of(node)
    return side.stage == "quantized" and unit is not None and bool(unit.output) and node.op != "placeholder"


def _text(node: fx.Node, side: Side) -> str:
    facts, unit = info(node), side.unit_of(node)
    if node.op in ("placeholder", "output"):
        return node.op
    if _is_lowered(facts):
        return _kernel_text(node, unit, side)
    if facts.op or facts.made_by == "capture":
        return facts.op or facts.origin.spelling or _target_text(node)
    if node.op == "call_module":
        module = side.model.get_submodule(str(node.target))
        name = type(getattr(module, "observer", module)).__name__
        return "quantize" if name == "Quantize" else name
    return _target_text(node)


def _kernel_text(node: fx.Node, unit: Unit | None, side: Side) -> str:
    if unit is None or unit.kernel is None or node.name != unit.name:
        return "clip on int8" if node.name.endswith("_clip") else f"{info(node).op} on int8"
    if not unit.kernel.function or unit.kernel.function.startswith("aten."):
        return f"{info(node).op} on int8"
    return str(unit.kernel)


def _target_text(node: fx.Node) -> str:
    if node.target in (quantize, dequantize):
        return "quantize" if node.target is quantize else "dequantize"
    return qualified_name(node.target).removeprefix(".")


def qparams_text(node: fx.Node, side: Side) -> str:
    """Scale, zero point and range of the integers that a node makes, read from the model's buffers; ``""`` if none."""
    found = _qparams(node, side)
    if found is None:
        return ""
    scale, zero_point, spec = found
    low, high = (spec.quant_min - zero_point) * scale, (spec.quant_max - zero_point) * scale
    text = f"scale={scale:.4g} zero_point={zero_point}, range [{_short(low)}, {_short(high)}]"
    note = side.range_note(info(node).holds)
    return text if not note else f"{text}, {note}" if note.startswith("fixed") else f"{text} from {note}"


def _short(value: float) -> str:
    return f"{value:.3g}" if value else "0"


def _qparams(node: fx.Node, side: Side) -> tuple[float, int, TensorSpec] | None:
    if node.target is quantize:
        paths = [str(argument.target) for argument in node.args[1:3] if isinstance(argument, fx.Node)]
        quant_min, quant_max, dtype = node.args[3:6]
        spec = TensorSpec(dtype, quant_min, quant_max)  # type: ignore[arg-type]
        scale, zero_point = (get_tensor(side.model, path) for path in paths)
        return float(scale), int(zero_point), spec
    kernel = _kernel(node, side)
    scale_buffer, zero_point_buffer = getattr(kernel, "scale", None), getattr(kernel, "zero_point", None)
    if isinstance(scale_buffer, Tensor) and isinstance(zero_point_buffer, Tensor):
        return float(scale_buffer), int(zero_point_buffer), _QUINT8
    return None


def _kernel(node: fx.Node, side: Side) -> nn.Module | None:
    if node.op != "call_module" or not str(node.target).startswith(f"{KERNELS}."):
        return None
    return side.model.get_submodule(str(node.target))


def observer_text(node: fx.Node, side: Side) -> str:
    """What an observer node records, and the range it has seen or rounds to; ``""`` for other nodes."""
    if node.op != "call_module" or not is_watching(info(node)):
        return ""
    module = side.model.get_submodule(str(node.target))
    observer: Any = getattr(module, "observer", None)
    if observer is None:
        return "mean of each input channel, for bias correction"
    if isinstance(observer, FakeQuantize):
        return _rounding_text(observer)
    low, high = getattr(observer, "min_val", None), getattr(observer, "max_val", None)
    batches: int = max(getattr(module, "batches", {}).values(), default=0)
    if not isinstance(low, Tensor) or not isinstance(high, Tensor) or not low.numel() or not batches:
        return "no data yet"
    return f"range [{_short(float(low.min()))}, {_short(float(high.max()))}] over {batches} batches"


def _rounding_text(fake: FakeQuantize) -> str:
    """What values are rounded to in training."""
    if not fake.has_seen_data:
        return "no data yet"
    scale, zero_point = float(fake.scale.max()), int(fake.zero_point.reshape(-1)[0])
    low, high = (fake.quant_min - zero_point) * scale, (fake.quant_max - zero_point) * scale
    return f"scale={scale:.4g} zero_point={zero_point}, range [{_short(low)}, {_short(high)}]"


def weight_text(node: fx.Node, side: Side) -> str:
    """Dtype, granularity and largest scale of the integer weight a node computes with; ``""`` when it has none."""
    if is_added(info(node)) or info(node).op not in WEIGHTED:
        return ""
    trained = _trained_weight(node, side)
    if trained is not None:
        return f"weight rounded in training by {type(trained).__name__}"
    kernel = _kernel(node, side)
    if kernel is None:
        weight, scale = _weight_operands(node, side)
    else:
        weight, scale = getattr(kernel, "weight", None), getattr(kernel, "weight_scale", None)
    if not isinstance(weight, Tensor) or not isinstance(scale, Tensor):
        return ""
    kind = "per tensor" if scale.dim() == 0 else "per channel"
    return f"weight {str(weight.dtype).removeprefix('torch.')} {kind}, scale up to {float(scale.max()):.3g}"


def _weight_operands(node: fx.Node, side: Side) -> tuple[Tensor | None, Tensor | None]:
    """Integers and scale of a weight that is dequantized right before the node."""
    for source in node.all_input_nodes:
        if source.target is dequantize and source.name in side.operand_names:
            weight, scale = source.all_input_nodes[:2]
            return get_tensor(side.model, str(weight.target)), get_tensor(side.model, str(scale.target))
    return None, None


def _trained_weight(node: fx.Node, side: Side) -> nn.Module | None:
    """What rounds the weight of a node in training."""
    for source in node.all_input_nodes:
        made = source.all_input_nodes[0] if source.target is operator.getitem else source
        if made.op == "call_module" and is_watching(info(made)) and made.name in side.operand_names:
            fake = getattr(side.model.get_submodule(str(made.target)), "fake", None)
            return fake if isinstance(fake, nn.Module) else None
    return None
