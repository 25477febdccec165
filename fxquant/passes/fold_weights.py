"""Float weight and bias of a unit, with the batch norms on either side folded in.

Before: ``conv1.weight``, ``bn1.weight``, ``bn1.running_mean``, ... After: one weight and one bias, and the names of
the parameters and buffers that they were made from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

from torch import Tensor, fx, nn

from fxquant.fusion.rule import TRANSPOSED, spatial_rank
from fxquant.ir.edit import evaluate_constant
from fxquant.ir.quant_plan import Unit
from fxquant.numerics.batch_norm import fold_batch_norm, fold_batch_norm_before
from fxquant.numerics.conv_geometry import as_tuple, input_rows, output_rows
from fxquant.ops import catalogue
from fxquant.ops.opdef import Bound


@dataclass(frozen=True)
class FloatWeight:
    """Weight and bias of a unit in float.

    Attributes:
        rows: [C_out, C_in/groups, *kernel] or [out, in], one row per output channel, for transposed convolutions too.
        bias: [C_out], or None.
        origins: the user's parameter and buffer names they were made from.
        groups: of the convolution, 1 for linear.
        transposed: whether it is a transposed convolution.
        stride_product: product of a transposed convolution's strides, 1 for everything else.
    """

    rows: Tensor
    bias: Tensor | None
    origins: tuple[str, ...]
    groups: int = 1
    transposed: bool = False
    stride_product: int = 1

    def as_called(self, rows: Tensor) -> Tensor:
        """Rows in the layout that the unit's operator takes: [C_in, C_out/groups, *kernel] when transposed."""
        return input_rows(rows, self.groups) if self.transposed else rows


def fold_weights(unit: Unit, nodes: dict[str, fx.Node], root: nn.Module) -> FloatWeight:
    """Evaluate weight and bias of a unit and fold its batch norms into them.

    Args:
        unit: a convolution, transposed convolution or linear.
        nodes: nodes of the captured graph by name.
        root: the model the graph refers to.
    """
    bound = _arguments(nodes[unit.anchor])
    weight = evaluate_constant(bound["weight"], root)
    bias = None if bound["bias"] is None else evaluate_constant(bound["bias"], root)
    origins = (*origins_of(bound["weight"]), *(origins_of(bound["bias"]) if bound["bias"] is not None else ()))
    groups, transposed = int(bound.get("groups", 1)), unit.op in TRANSPOSED
    stride_product = prod(as_tuple(bound["stride"], spatial_rank(unit.op))) if transposed else 1
    rows = output_rows(weight, groups) if transposed else weight
    folded = FloatWeight(rows, bias, origins, groups, transposed, stride_product)
    before, after = unit.role("batch_norm_before"), unit.role("batch_norm")
    if before is not None:
        terms, names = _batch_norm_terms(nodes[before], root)
        rows, bias = fold_batch_norm_before(folded.rows, folded.bias, **terms, groups=groups)
        folded = replace(folded, rows=rows, bias=bias, origins=(*folded.origins, *names))
    if after is not None:
        terms, names = _batch_norm_terms(nodes[after], root)
        rows, bias = fold_batch_norm(folded.rows, folded.bias, **terms)
        folded = replace(folded, rows=rows, bias=bias, origins=(*folded.origins, *names))
    return replace(folded, rows=folded.rows.detach(), bias=None if folded.bias is None else folded.bias.detach())


def _arguments(node: fx.Node) -> Bound:
    return catalogue.arguments(node, catalogue.row_of(node))


def origins_of(node: fx.Node) -> tuple[str, ...]:
    """Names of the parameters and buffers a constant is computed from."""
    if node.op == "get_attr":
        return (str(node.target),)
    return tuple(name for source in node.all_input_nodes for name in origins_of(source))


def _batch_norm_terms(node: fx.Node, root: nn.Module) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Arguments of the folding functions, and the names of the user's tensors among them."""
    if node.op == "call_module":
        module, path = root.get_submodule(str(node.target)), str(node.target)
        tensors = {key: getattr(module, key) for key in ("running_mean", "running_var", "weight", "bias")}
        names = tuple(f"{path}.{key}" for key, value in tensors.items() if value is not None)
        eps = module.eps
    else:
        bound = _arguments(node)
        given = {key: bound[key] for key in ("running_mean", "running_var", "weight", "bias")}
        tensors = {key: None if value is None else evaluate_constant(value, root) for key, value in given.items()}
        names = tuple(name for value in given.values() if value is not None for name in origins_of(value))
        eps = bound["eps"]
    gamma, beta = tensors.pop("weight"), tensors.pop("bias")
    return {**tensors, "gamma": gamma, "beta": beta, "eps": eps}, names
