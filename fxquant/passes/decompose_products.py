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


def decompose_matmul(writer: PartsWriter) -> None:
    """activation @ constant matrix."""
    x, weight = writer.bound["input"], writer.bound["other"]
    if writer.is_constant(weight) and not writer.is_constant(x) and len(shape_of(weight)) == 2:
        writer.finish("linear", input=x, weight=_transposed(writer, weight), bias=None)


def decompose_addmm(writer: PartsWriter) -> None:
    """beta·input + alpha·(mat1 @ mat2)."""
    bound = writer.bound
    x, weight, bias = bound["mat1"], bound["mat2"], bound["input"]
    alpha, beta = bound["alpha"], bound["beta"]
    plain = alpha == 1 and beta == 1 and writer.is_constant(bias) and len(shape_of(bias)) == 1
    if plain and writer.is_constant(weight) and not writer.is_constant(x):
        writer.finish("linear", input=x, weight=_transposed(writer, weight), bias=bias)
        return
    product = writer.add("matmul", input=x, other=weight)
    if beta == 0:
        writer.finish("mul", input=product, other=alpha)
        return
    if alpha != 1:
        product = writer.add("mul", input=product, other=alpha)
    writer.finish("add", input=product, other=bias, alpha=beta)


def decompose_outer(writer: PartsWriter) -> None:
    """Every element of one vector times every element of the other."""
    column = writer.add("unsqueeze", input=writer.bound["input"], dim=1)
    row = writer.add("unsqueeze", input=writer.bound["vec2"], dim=0)
    writer.finish("mul", input=column, other=row)


def decompose_einsum(writer: PartsWriter) -> None:
    """Two operands that share any number of batch indices, sum over one, and keep at most one each.

    Other equations stay whole.
    """
    equation, operands = writer.bound["equation"], writer.bound["operands"]
    if not isinstance(equation, str) or len(operands) != 2 or not all(isinstance(item, fx.Node) for item in operands):
        return
    parsed = _parse(equation.replace(" ", ""))
    if parsed is None:
        return
    (left, right, result), (batch, row, inner, column) = parsed
    x = _arranged(writer, operands[0], left, batch + row + inner)
    y = _arranged(writer, operands[1], right, batch + inner + column)
    ordered = batch + row + column
    if ordered == result:
        writer.finish("matmul", input=x, other=y)
    else:
        product = writer.add("matmul", input=x, other=y)
        writer.finish("permute", input=product, dims=tuple(ordered.index(letter) for letter in result))


def _parse(equation: str) -> tuple[tuple[str, str, str], tuple[str, str, str, str]] | None:
    """Indices of both operands and the result; and of batch, rows, sum and columns; None for other equations."""
    operands, arrow, result = equation.partition("->")
    left, comma, right = operands.partition(",")
    repeated = any(len(set(part)) != len(part) for part in (left, right, result))
    if not arrow or not comma or repeated or not (left + right + result).isalpha():
        return None
    batch = "".join(letter for letter in left if letter in right and letter in result)
    row = "".join(letter for letter in left if letter not in right)
    inner = "".join(letter for letter in left if letter in right and letter not in result)
    column = "".join(letter for letter in right if letter not in left)
    if (len(row), len(inner), len(column)) != (1, 1, 1) or set(result) != set(batch + row + column):
        return None
    return (left, right, result), (batch, row, inner, column)


def _arranged(writer: PartsWriter, node: fx.Node, letters: str, wanted: str) -> fx.Node:
    if letters == wanted:
        return node
    return writer.add("permute", input=node, dims=tuple(letters.index(letter) for letter in wanted))


def _transposed(writer: PartsWriter, weight: Any) -> fx.Node:
    return writer.add("transpose", input=weight, dim0=0, dim1=1)
