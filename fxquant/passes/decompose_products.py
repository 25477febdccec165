"""Products of matrices as matmul and linear, which have int8 kernels.

Before::

    %z = baddbmm(%m, %a, %b);  %y = matmul(%x, weight);  %u = addmm(bias, %x, weight)
    %e = einsum("bqd,bkd->bqk", %a, %b);  %o = outer(%a, %b)

After::

    %p = matmul(%a, %b);  %z = add(%p, %m);  %y = linear(%x, transpose(weight))
    %u = linear(%x, transpose(weight), bias)
    %t = permute(%b, 0, 2, 1);  %e = matmul(%a, %t);  %c = unsqueeze(%a, 1);  %r = unsqueeze(%b, 0);  %o = mul(%c, %r)

Products with a matrix that is a constant of the model become linear: its weights are quantized per channel.
"""

from __future__ import annotations

from typing import Any

from torch import fx

from fxquant.ops.opdef import Bound
from fxquant.passes.parts_writer import PartsWriter, shape_of


def decompose_baddbmm(writer: PartsWriter) -> None:
    """beta·input + alpha·(batch1 @ batch2)."""
    bound = writer.bound
    alpha, beta = bound["alpha"], bound["beta"]
    product = writer.add("matmul", input=bound["batch1"], other=bound["batch2"])
    if beta == 0:  # torch ignores the summand then, whatever it holds
        writer.finish("mul", input=product, other=alpha)
        return
    if alpha != 1:
        product = writer.add("mul", input=product, other=alpha)
    writer.finish("add", input=product, other=bound["input"], alpha=beta)


def matmul_as_linear(writer: PartsWriter) -> bool:
    """activation @ constant matrix; whether it is that."""
    x, weight = writer.bound["input"], writer.bound["other"]
    if not writer.is_constant(weight) or writer.is_constant(x) or len(shape_of(weight)) != 2:
        return False
    writer.finish("linear", input=x, weight=_transposed(writer, weight), bias=None)
    return True


def addmm_as_linear(writer: PartsWriter) -> bool:
    """constant vector + activation @ constant matrix; whether it is that."""
    bound = writer.bound
    x, weight, bias = bound["mat1"], bound["mat2"], bound["input"]
    plain = bound["alpha"] == 1 and bound["beta"] == 1 and writer.is_constant(bias) and len(shape_of(bias)) == 1
    if not plain or not writer.is_constant(weight) or writer.is_constant(x):
        return False
    writer.finish("linear", input=x, weight=_transposed(writer, weight), bias=bias)
    return True


def decompose_matmul(writer: PartsWriter) -> None:
    """activation @ constant matrix; other products stay."""
    matmul_as_linear(writer)


def decompose_addmm(writer: PartsWriter) -> None:
    """beta·input + alpha·(mat1 @ mat2)."""
    if addmm_as_linear(writer):
        return
    bound = writer.bound
    alpha, beta = bound["alpha"], bound["beta"]
    product = writer.add("matmul", input=bound["mat1"], other=bound["mat2"])
    if beta == 0:
        writer.finish("mul", input=product, other=alpha)
        return
    if alpha != 1:
        product = writer.add("mul", input=product, other=alpha)
    writer.finish("add", input=product, other=bound["input"], alpha=beta)


def decompose_outer(writer: PartsWriter) -> None:
    """Every element of one vector times every element of the other."""
    column = writer.add("unsqueeze", input=writer.bound["input"], dim=1)
    row = writer.add("unsqueeze", input=writer.bound["vec2"], dim=0)
    writer.finish("mul", input=column, other=row)


def einsum_as_linear(writer: PartsWriter) -> bool:
    """An activation and a constant matrix that share one index, which is summed over; whether it is that."""
    parsed, operands = _parse(writer.bound), writer.bound["operands"]
    if parsed is None:
        return False
    left, right, result = parsed
    x, weight = operands
    if writer.is_constant(x):
        x, weight, left, right = weight, x, right, left
    batch, row, inner, column = _roles(left, right, result)
    fits = not batch and (len(inner), len(column)) == (1, 1) and set(result) == set(row + column)
    if writer.is_constant(x) or not writer.is_constant(weight) or not fits:
        return False
    given = {
        "input": _arranged(writer, x, left, row + inner),
        "weight": _arranged(writer, weight, right, column + inner),
        "bias": None,
    }
    _finish(writer, "linear", given, row + column, result)
    return True


def decompose_einsum(writer: PartsWriter) -> None:
    """Two operands that share any number of batch indices, sum over one, and keep at most one each.

    Other equations stay whole.
    """
    if einsum_as_linear(writer):
        return
    parsed, operands = _parse(writer.bound), writer.bound["operands"]
    if parsed is None:
        return
    left, right, result = parsed
    batch, row, inner, column = _roles(left, right, result)
    if (len(row), len(inner), len(column)) != (1, 1, 1) or set(result) != set(batch + row + column):
        return
    given = {
        "input": _arranged(writer, operands[0], left, batch + row + inner),
        "other": _arranged(writer, operands[1], right, batch + inner + column),
    }
    _finish(writer, "matmul", given, batch + row + column, result)


def _finish(writer: PartsWriter, op: str, given: dict[str, Any], ordered: str, result: str) -> None:
    """The product, its indices put in the order that is asked for."""
    if ordered == result:
        writer.finish(op, **given)
    else:
        product = writer.add(op, **given)
        writer.finish("permute", input=product, dims=tuple(ordered.index(letter) for letter in result))


def _parse(bound: Bound) -> tuple[str, str, str] | None:
    """Indices of both operands and of the result; None for equations of another kind."""
    equation, operands = bound["equation"], bound["operands"]
    if not isinstance(equation, str) or len(operands) != 2 or not all(isinstance(item, fx.Node) for item in operands):
        return None
    given, arrow, result = equation.replace(" ", "").partition("->")
    left, comma, right = given.partition(",")
    repeated = any(len(set(part)) != len(part) for part in (left, right, result))
    if not arrow or not comma or repeated or not (left + right + result).isalpha():
        return None
    return left, right, result


def _roles(left: str, right: str, result: str) -> tuple[str, str, str, str]:
    """The indices of batch, rows, sum and columns."""
    batch = "".join(letter for letter in left if letter in right and letter in result)
    row = "".join(letter for letter in left if letter not in right)
    inner = "".join(letter for letter in left if letter in right and letter not in result)
    column = "".join(letter for letter in right if letter not in left)
    return batch, row, inner, column


def _arranged(writer: PartsWriter, node: fx.Node, letters: str, wanted: str) -> fx.Node:
    if letters == wanted:
        return node
    return writer.add("permute", input=node, dims=tuple(letters.index(letter) for letter in wanted))


def _transposed(writer: PartsWriter, weight: Any) -> fx.Node:
    return writer.add("transpose", input=weight, dim0=0, dim1=1)
