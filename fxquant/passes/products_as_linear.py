"""Products of activations with matrices that are constants of the model, however they are spelled, as linear.

Before::

    %y = matmul(%x, weight);  %u = addmm(bias, %x, weight);  %z = matmul(weight, %x);  %v = addmm(%m, %x, weight)
    %e = einsum("bti,ihd->bhtd", %x, weight)

After::

    %y = linear(%x, transpose(weight));  %u = linear(%x, transpose(weight), bias)
    %t = transpose(%x, -1, -2);  %p = linear(%t, weight);  %z = transpose(%p, -1, -2)
    %q = linear(%x, transpose(weight));  %v = add(%q, %m)
    %w = reshape(permute(weight, 1, 2, 0), 6, 8);  %l = linear(%x, %w);  %s = unflatten(%l, -1, (2, 3))
    %e = permute(%s, 0, 2, 1, 3)

Each function says whether the product was one of these; otherwise it wrote nothing.
"""

from __future__ import annotations

import string
from math import prod
from typing import Any

from torch import fx

from fxquant.ops.opdef import Bound
from fxquant.passes.parts_writer import PartsWriter, shape_of


def matmul_as_linear(writer: PartsWriter) -> bool:
    """activation @ constant matrix."""
    x, weight = writer.bound["input"], writer.bound["other"]
    if not _is_matrix(writer, weight) or writer.is_constant(x):
        return False
    writer.finish("linear", input=x, weight=_transposed(writer, weight), bias=None)
    return True


def either_matmul_as_linear(writer: PartsWriter) -> bool:
    """activation @ constant matrix, or constant matrix @ activation."""
    if matmul_as_linear(writer):
        return True
    weight, x = writer.bound["input"], writer.bound["other"]
    if not _is_matrix(writer, weight) or writer.is_constant(x):
        return False
    if len(shape_of(x)) == 1:
        writer.finish("linear", input=x, weight=weight, bias=None)
    else:
        writer.finish("transpose", input=_from_the_left(writer, weight, x), dim0=-2, dim1=-1)
    return True


def addmm_as_linear(writer: PartsWriter) -> bool:
    """constant vector + activation @ constant matrix."""
    bound = writer.bound
    x, weight, bias = bound["mat1"], bound["mat2"], bound["input"]
    plain = bound["alpha"] == 1 and bound["beta"] == 1 and writer.is_constant(bias) and len(shape_of(bias)) == 1
    if not plain or not _is_matrix(writer, weight) or writer.is_constant(x):
        return False
    writer.finish("linear", input=x, weight=_transposed(writer, weight), bias=bias)
    return True


def addmm_around_linear(writer: PartsWriter) -> bool:
    """Anything plus the product of an activation and a constant matrix, in either order."""
    bound = writer.bound
    if addmm_as_linear(writer):
        return True
    left, right = bound["mat1"], bound["mat2"]
    if writer.is_constant(left) == writer.is_constant(right):
        return False
    if writer.is_constant(right):
        product = writer.add("linear", input=left, weight=_transposed(writer, right), bias=None)
    else:
        product = writer.add("transpose", input=_from_the_left(writer, left, right), dim0=-2, dim1=-1)
    finish_scaled_sum(writer, product, bound["input"])
    return True


def finish_scaled_sum(writer: PartsWriter, product: fx.Node, summand: Any) -> None:
    """alpha·product + beta·summand, by the whole's arguments."""
    alpha, beta = writer.bound["alpha"], writer.bound["beta"]
    if beta == 0:  # torch ignores the summand then, whatever it holds
        writer.finish("mul", input=product, other=alpha)
        return
    if alpha != 1:
        product = writer.add("mul", input=product, other=alpha)
    writer.finish("add", input=product, other=summand, alpha=beta)


def einsum_as_linear(writer: PartsWriter) -> bool:
    """An activation and a constant that share only indices that are summed over; each may have several."""
    parsed, operands = parse_einsum(writer.bound), writer.bound["operands"]
    if parsed is None:
        return False
    left, right, result = parsed
    x, weight = operands
    if writer.is_constant(x):
        x, weight, left, right = weight, x, right, left
    batch, row, inner, column = roles(left, right, result)
    fits = not batch and inner and set(result) == set(row + column)
    if writer.is_constant(x) or not writer.is_constant(weight) or not fits:
        return False
    given = arranged(writer, x, left, row + inner)
    if len(inner) > 1:
        given = writer.add("flatten", input=given, start_dim=-len(inner))
    sizes = dict(zip(right, shape_of(weight), strict=True))
    columns = tuple(sizes[letter] for letter in column)
    matrix = arranged(writer, weight, right, column + inner)
    if (len(inner), len(column)) != (1, 1):
        matrix = writer.add("reshape", input=matrix, shape=(prod(columns), prod(sizes[letter] for letter in inner)))
    _finish_linear(writer, given, matrix, columns, (row + column, result))
    return True


def _finish_linear(
    writer: PartsWriter, given: fx.Node, matrix: fx.Node, columns: tuple[int, ...], indices: tuple[str, str]
) -> None:
    """The linear, its last dimension as ``columns``, and the indices in the order that is asked for."""
    ordered, result = indices
    steps: list[tuple[str, dict[str, Any]]] = [("linear", {"weight": matrix, "bias": None})]
    if len(columns) != 1:
        steps.append(("unflatten", {"dim": -1, "sizes": columns}) if columns else ("squeeze", {"dim": -1}))
    if ordered != result:
        steps.append(("permute", {"dims": tuple(ordered.index(letter) for letter in result)}))
    for op, arguments in steps[:-1]:
        given = writer.add(op, input=given, **arguments)
    op, arguments = steps[-1]
    writer.finish(op, input=given, **arguments)


def parse_einsum(bound: Bound) -> tuple[str, str, str] | None:
    """Indices of both operands and of the result; None for equations of another kind.

    An ellipsis of one operand becomes letters of its own; a result that is not written is added, as torch does.
    """
    equation, operands = bound["equation"], bound["operands"]
    if not isinstance(equation, str) or len(operands) != 2 or not all(isinstance(item, fx.Node) for item in operands):
        return None
    given, arrow, result = equation.replace(" ", "").partition("->")
    left, comma, right = given.partition(",")
    if not arrow:
        letters = sorted(letter for letter in {*left, *right} - {"."} if (left + right).count(letter) == 1)
        result = ("..." if "..." in given else "") + "".join(letters)
    if "..." in left and "..." in right:
        return None
    unused = [letter for letter in string.ascii_letters if letter not in equation]
    hidden = _hidden(left, operands[0], unused) or _hidden(right, operands[1], unused)
    left, right, result = (part.replace("...", hidden) for part in (left, right, result))
    repeated = any(len(set(part)) != len(part) for part in (left, right, result))
    if not comma or repeated or not (left + right + result).isalpha():
        return None
    return left, right, result


def _hidden(letters: str, operand: fx.Node, unused: list[str]) -> str:
    """Letters for the dimensions that an ellipsis stands for."""
    return "".join(unused[: len(shape_of(operand)) - len(letters) + 3]) if "..." in letters else ""


def roles(left: str, right: str, result: str) -> tuple[str, str, str, str]:
    """The indices of batch, rows, sum and columns."""
    batch = "".join(letter for letter in left if letter in right and letter in result)
    row = "".join(letter for letter in left if letter not in right)
    inner = "".join(letter for letter in left if letter in right and letter not in result)
    column = "".join(letter for letter in right if letter not in left)
    return batch, row, inner, column


def arranged(writer: PartsWriter, node: fx.Node, letters: str, wanted: str) -> fx.Node:
    """A tensor with its indices in another order."""
    if letters == wanted:
        return node
    return writer.add("permute", input=node, dims=tuple(letters.index(letter) for letter in wanted))


def _is_matrix(writer: PartsWriter, weight: Any) -> bool:
    return writer.is_constant(weight) and len(shape_of(weight)) == 2


def _transposed(writer: PartsWriter, weight: Any) -> fx.Node:
    return writer.add("transpose", input=weight, dim0=0, dim1=1)


def _from_the_left(writer: PartsWriter, weight: fx.Node, x: fx.Node) -> fx.Node:
    """The transpose of weight @ x."""
    turned = writer.add("transpose", input=x, dim0=-2, dim1=-1)
    return writer.add("linear", input=turned, weight=weight, bias=None)
