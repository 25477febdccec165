"""Products of matrices as matmul and linear, which have int8 kernels.

Before::

    %z = baddbmm(%m, %a, %b);  %y = matmul(%x, weight)
    %e = einsum("bqd,bkd->bqk", %a, %b);  %o = outer(%a, %b)

After::

    %p = matmul(%a, %b);  %z = add(%p, %m);  %y = linear(%x, transpose(weight))
    %t = permute(%b, 0, 2, 1);  %e = matmul(%a, %t);  %c = unsqueeze(%a, 1);  %r = unsqueeze(%b, 0);  %o = mul(%c, %r)

Products with a matrix that is a constant of the model become linear (``products_as_linear``): its weights are quantized
per channel.
"""

from __future__ import annotations

from fxquant.passes.parts_writer import PartsWriter
from fxquant.passes.products_as_linear import (
    addmm_as_linear,
    arranged,
    einsum_as_linear,
    finish_scaled_sum,
    matmul_as_linear,
    parse_einsum,
    roles,
)


def decompose_baddbmm(writer: PartsWriter) -> None:
    """beta·input + alpha·(batch1 @ batch2)."""
    product = writer.add("matmul", input=writer.bound["batch1"], other=writer.bound["batch2"])
    finish_scaled_sum(writer, product, writer.bound["input"])


def decompose_matmul(writer: PartsWriter) -> None:
    """activation @ constant matrix; other products stay."""
    matmul_as_linear(writer)


def decompose_addmm(writer: PartsWriter) -> None:
    """beta·input + alpha·(mat1 @ mat2)."""
    if addmm_as_linear(writer):
        return
    product = writer.add("matmul", input=writer.bound["mat1"], other=writer.bound["mat2"])
    finish_scaled_sum(writer, product, writer.bound["input"])


def decompose_outer(writer: PartsWriter) -> None:
    """Every element of one vector times every element of the other."""
    column = writer.add("unsqueeze", input=writer.bound["input"], dim=1)
    row = writer.add("unsqueeze", input=writer.bound["vec2"], dim=0)
    writer.finish("mul", input=column, other=row)


def decompose_einsum(writer: PartsWriter) -> None:
    """Two operands that share any number of batch indices, sum over one, and keep at most one each.

    Other equations stay whole.
    """
    if einsum_as_linear(writer):
        return
    parsed, operands = parse_einsum(writer.bound), writer.bound["operands"]
    if parsed is None:
        return
    left, right, result = parsed
    batch, row, inner, column = roles(left, right, result)
    if (len(row), len(inner), len(column)) != (1, 1, 1) or set(result) != set(batch + row + column):
        return
    given = {
        "input": arranged(writer, operands[0], left, batch + row + inner),
        "other": arranged(writer, operands[1], right, batch + inner + column),
    }
    ordered = batch + row + column
    if ordered == result:
        writer.finish("matmul", **given)
    else:
        product = writer.add("matmul", **given)
        writer.finish("permute", input=product, dims=tuple(ordered.index(letter) for letter in result))
