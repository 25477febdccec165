"""Cutting statements out of a function: what cannot be captured is called as one part, the rest is traced.

Before::

    def forward(self, x):
        y = self.conv(x)
        if y.sum() > 0:
            y = y * 2
        return self.head(y)

After: the statement is a function of the names it uses, and the user's function calls it::

    def part(y):
        if y.sum() > 0:
            y = y * 2
        return (y,)

    def forward(self, x):
        y = self.conv(x)
        (y,) = part_0(locals())
        return self.head(y)

A statement that returns takes everything after it along. Of a statement that multiplies by weights, an expression may
be cut out: ``self.head(part_0(locals()))``.
"""

from __future__ import annotations

import ast
import copy
import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

from fxquant.capture.branches import catches
from fxquant.capture.live_names import live_names
from fxquant.capture.names_in_code import NamesUsed, declared_global, leaves_its_place, names_used
from fxquant.capture.parsed_files import function_of, path_to
from fxquant.ir.float_part import find_code

_LOOPS = (ast.For, ast.While)
_MOST = 12  # statements that are taken along
PART = "_fxquant_part_"  # how the names begin of what a function calls in the place of statements cut out of it
Where = tuple[int, int, int, int]
CutKey = tuple[CodeType, tuple[int, int], tuple[int, int]]
Block = tuple[ast.AST, list[ast.stmt], int]  # parent, its statements, which of them


@dataclass(frozen=True, eq=False)
class Cut:
    """One run of statements of a function, or one expression.

    Attributes:
        code: of the function.
        statements: what is cut out; that return its value where it is an expression.
        inputs: local names that it may read, outputs: those that it sets and that are read after it.
        shared: those that it may change and does not give: they may be arguments, or in variables around the function.
        returns: whether it ends the function.
        used: the names it uses.
        first_line, last_line: in the user's file.
        expression: what is cut out where that is no statement.
    """

    code: CodeType
    statements: tuple[ast.stmt, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    returns: bool
    used: NamesUsed
    first_line: int
    last_line: int
    shared: tuple[str, ...] = ()
    expression: ast.expr | None = None

    def __str__(self) -> str:
        lines = (
            f"line {self.first_line}"
            if self.first_line == self.last_line
            else f"lines {self.first_line}-{self.last_line}"
        )
        return f"{lines} of {self.code.co_qualname}"

    @property
    def nodes(self) -> list[ast.AST]:
        """All of its source."""
        return [node for statement in self.statements for node in ast.walk(statement)]

    @property
    def gives_one(self) -> bool:
        """Whether it gives one value, and no names."""
        return self.returns or self.expression is not None

    @property
    def key(self) -> CutKey:
        """What tells it from other cuts of all functions."""
        return self.code, *self._ends()

    @property
    def loops(self) -> bool:
        """Whether a loop is among the statements."""
        return any(isinstance(statement, _LOOPS) for statement in self.statements)

    @property
    def attributes_set(self) -> set[str]:
        """Names of attributes that it sets on what comes from outside, such as ``self``."""
        return {
            node.attr
            for node in self.nodes
            if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load)
            if not (isinstance(node.value, ast.Name) and node.value.id in self.used.stored)
        }

    def holds(self, other: Cut) -> bool:
        """Whether ``other`` is a part of this."""
        (first, last), (begin, end) = self._ends(), other._ends()
        return first <= begin and end <= last

    def _ends(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(line, column) where it begins and where it ends."""
        first, last = self.statements[0], self.statements[-1]
        return (first.lineno, first.col_offset), (last.end_lineno or 0, last.end_col_offset or 0)

    def source(self) -> str:
        """The part as a function called ``part``."""
        return ast.unparse(ast.fix_missing_locations(self._definition()))

    def compile(self, space: dict[str, Any]) -> FunctionType:
        """The part as a function with the lines of the user's file.

        Args:
            space: its globals.
        """
        definition = ast.fix_missing_locations(self._definition())
        inner = find_code(compile(ast.Module([definition], []), self.code.co_filename, "exec"), "part")
        return FunctionType(inner, space, "part")

    def _definition(self) -> ast.stmt:
        owner = self.code.co_qualname.rpartition(".")[0].rpartition(".")[2]
        arguments = ast.arguments([], [ast.arg(name) for name in self.inputs], None, [], [], None, [])
        body: list[ast.stmt] = [_named_super(statement, self.code) for statement in copy.deepcopy(self.statements)]
        function = function_of(self.code)
        declared = declared_global(function) if function is not None else set()
        outer = sorted(declared & (self.used.stored | self.used.loaded))
        if outer:
            body.insert(0, self._placed(made := ast.Global(outer), (made,)))
        if not self.gives_one:
            got = "".join(f"_found.get({name!r})," for name in self.outputs)  # what is not bound is None
            ending = ast.parse(f"_found = locals()\nreturn ({got})")
            body += [self._placed(item, (item, *ast.walk(item))) for item in ending.body]
        definition = ast.FunctionDef("part", arguments, body, [])
        self._placed(definition, (definition, *arguments.args))
        if owner and owner != "<locals>":  # private names are those of the class
            return self._placed(around := ast.ClassDef(owner, [], [], [definition], []), (around,))
        return definition

    def _placed(self, made: ast.stmt, nodes: Iterable[ast.AST]) -> ast.stmt:
        """Made source, some nodes of it put on the lines of what it stands for."""
        for node in nodes:
            if "lineno" in node._attributes:
                node.lineno, node.col_offset = self.first_line, 0  # type: ignore[attr-defined]
                node.end_lineno, node.end_col_offset = self.last_line, 0  # type: ignore[attr-defined]
        return made


def _named_super(statement: ast.stmt, code: CodeType) -> ast.stmt:
    """``super()`` needs its class and its first argument by name outside the class."""
    for node in ast.walk(statement):
        is_super = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super"
        if is_super and isinstance(node, ast.Call) and not node.args and code.co_varnames:
            node.args = [ast.Name("__class__", ast.Load()), ast.Name(code.co_varnames[0], ast.Load())]
    return statement


def find_cut(code: CodeType, where: Where | None) -> Cut | None:
    """The statement of a function that holds a position, and what must go with it; None where that cannot be cut out.

    Args:
        code: of the function.
        where: the position, of one expression or of several statements; None for the whole function.
    """
    function = function_of(code)
    if function is None or isinstance(function, ast.AsyncFunctionDef):
        return None
    body = _without_docstring(function.body)
    if where is None:
        return _cut(function, code, body, None, True)
    path = path_to(function, where)
    if path == [function]:
        return _cut_run(function, code, body, where)
    blocks = list(blocks_of(path))
    for depth in range(len(blocks) - 1, -1, -1):
        _, block, index = blocks[depth]
        if depth and block is function.body and index < len(function.body) - len(body):
            return None
        returns, jumps, yields = leaves_its_place([block[index]])
        if yields:
            return None
        if any(has_caught(parent, around) for parent, around, _ in blocks[: depth + 1]):
            continue  # what it raises is caught by the user's code, not by the graph
        if returns and block is not function.body:
            continue
        if jumps:
            continue
        return _cut_in(function, code, blocks[: depth + 1], index + 1, returns)
    return None


def _cut_in(function: ast.FunctionDef, code: CodeType, blocks: Sequence[Block], end: int, returns: bool) -> Cut | None:
    """The statements from the last of some blocks, one in the other, up to ``end``; all there are where one returns."""
    _, block, begin = blocks[-1]
    if returns:
        return _cut(function, code, block[begin:], None, True)
    in_loop = any(isinstance(parent, _LOOPS) for parent, _, _ in blocks)
    return _cut(function, code, block[begin:end], None if in_loop else function, False)


def widened(cut: Cut, names: Collection[str]) -> Cut | None:
    """A cut with what follows it in its block, up to the last statement that reads some names.

    None where no statement does, or where these cannot be cut out.
    """
    function, first = function_of(cut.code), cut.statements[0]
    if not isinstance(function, ast.FunctionDef) or cut.gives_one:
        return None
    where = first.lineno, first.end_lineno or 0, first.col_offset, first.end_col_offset or 0
    blocks = list(blocks_of(path_to(function, where)))
    depth = next((depth for depth, (_, block, index) in enumerate(blocks) if block[index] is first), None)
    if depth is None:
        return None
    _, block, begin = blocks[depth]
    behind = range(begin + len(cut.statements), len(block))
    reading = [place for place in behind if not names_used([block[place]]).loaded.isdisjoint(names)]
    if not reading or reading[-1] - begin >= _MOST:
        return None
    run = block[begin : reading[-1] + 1]
    returns, jumps, yields = leaves_its_place(run)
    if jumps or yields or (returns and block is not function.body):
        return None
    return _cut_in(function, cut.code, blocks[: depth + 1], begin + len(run), returns)


def _cut_run(function: ast.FunctionDef, code: CodeType, body: list[ast.stmt], where: Where) -> Cut | None:
    """Several statements of a function, one after the other."""
    first, last = where[0], where[1]
    inside = [item for item in body if first <= item.lineno and (item.end_lineno or item.lineno) <= last]
    if not inside:
        return None
    returns, jumps, yields = leaves_its_place(inside)
    if jumps or yields:
        return None
    if returns:
        return _cut(function, code, body[body.index(inside[0]) :], None, True)
    return _cut(function, code, inside, function, False)


def has_caught(parent: ast.AST, block: list[ast.stmt]) -> bool:
    """Whether what statements raise is caught by what is around their block."""
    return catches(parent) and block is getattr(parent, "body", None)


def _cut(
    function: ast.FunctionDef, code: CodeType, statements: Sequence[ast.stmt], straight: ast.AST | None, returns: bool
) -> Cut | None:
    if leaves_its_place(statements)[2] or not statements:
        return None
    used = names_used(statements)
    known = {*code.co_varnames, *code.co_cellvars, *code.co_freevars}
    inputs = (used.loaded | used.stored) & known
    if "super" in used.loaded and "__class__" in known:
        inputs |= {"__class__", code.co_varnames[0]}
    outputs: set[str] = set()
    if not returns:
        live = live_names(function, statements)
        others = _names_elsewhere(function, statements) if live is None else live
        outputs = ((used.stored | (used.changed & used.loaded)) & known) & (
            others | (used.loaded if straight is None else set())
        )
    return Cut(
        code, tuple(statements), tuple(sorted(inputs)), tuple(sorted(outputs)), returns, used,
        min(statement.lineno for statement in statements), max(statement.end_lineno or 0 for statement in statements),
        tuple(sorted((used.changed & inputs) - outputs - {"__class__"})),
    )  # fmt: skip


def _names_elsewhere(function: ast.FunctionDef, statements: Sequence[ast.stmt]) -> set[str]:
    """Names that the function reads outside ``statements``."""
    inside = {id(node) for statement in statements for node in ast.walk(statement)}
    return {
        node.id
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and id(node) not in inside
    }


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0]
    documented = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    return body[1:] if documented else body


def blocks_of(path: Sequence[ast.AST]) -> Iterator[Block]:
    """(parent, block, index of the statement) for each statement of a path that is in a block of its parent."""
    for parent, node in itertools.pairwise(path):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(parent, name, None)
            if isinstance(block, list) and any(item is node for item in block):
                yield parent, block, next(index for index, item in enumerate(block) if item is node)
        if isinstance(parent, ast.Try):
            continue


def rewrite(code: CodeType, cuts: Sequence[Cut], names: Sequence[str]) -> CodeType:
    """The function with each cut replaced by a call of a global name, given the function's local names.

    Args:
        code: of the user's function.
        cuts: of that function, none inside another.
        names: of the globals to call, one per cut.

    Raises:
        ValueError: the rewritten function would not fit the function's closure.
    """
    function = function_of(code)
    assert isinstance(function, ast.FunctionDef)
    memo: dict[int, Any] = {}
    new = copy.deepcopy(function, memo)
    for cut, name in zip(cuts, names, strict=True):
        if cut.expression is not None:
            _replace_expression(new, memo[id(cut.expression)], _call_of(name))
        else:
            _replace(new, [memo[id(statement)] for statement in cut.statements], _call(cut, name))
    new.decorator_list, new.returns = [], None
    new.args.defaults, new.args.kw_defaults = [], [None] * len(new.args.kwonlyargs)
    if code.co_freevars:  # keep the closure as it is
        kept = ast.parse(f"if False: ({', '.join(code.co_freevars)},)").body
        new.body[len(new.body) - len(_without_docstring(new.body)) :] = [*kept, *_without_docstring(new.body)]
    made: ast.stmt = new
    owner = code.co_qualname.rpartition(".")[0].rpartition(".")[2]
    if owner and owner != "<locals>":
        made = ast.ClassDef(owner, [], [], [made], [])
    outer = [name for name in code.co_freevars if name != "__class__"]
    if outer:
        arguments = ast.arguments([], [ast.arg(name) for name in outer], None, [], [], None, [])
        made = ast.FunctionDef("around", arguments, [made], [])
    module = ast.fix_missing_locations(ast.Module([ast.copy_location(made, function)], []))
    found = find_code(compile(module, code.co_filename, "exec"), code.co_name)
    if found.co_freevars != code.co_freevars:
        raise ValueError(f"{code.co_qualname} has another closure when it is cut")
    return found


def _call_of(name: str) -> ast.expr:
    return ast.parse(f"{name}(locals())", mode="eval").body


def _call(cut: Cut, name: str) -> ast.stmt:
    call = _call_of(name)
    made: ast.stmt
    if cut.returns:
        made = ast.Return(call)
    elif cut.outputs:
        made = ast.Assign([ast.Tuple([ast.Name(item, ast.Store()) for item in cut.outputs], ast.Store())], call)
    else:
        made = ast.Expr(call)
    first, last = cut.statements[0], cut.statements[-1]
    for node in ast.walk(made):
        ast.copy_location(node, first)
        if hasattr(node, "end_lineno"):
            node.end_lineno, node.end_col_offset = last.end_lineno, last.end_col_offset  # type: ignore[attr-defined]
    return made


def _replace_expression(function: ast.FunctionDef, expression: ast.expr, call: ast.expr) -> None:
    for node in ast.walk(call):
        ast.copy_location(node, expression)

    class Replacer(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> Any:
            return call if node is expression else super().visit(node)

    Replacer().visit(function)


def _replace(function: ast.FunctionDef, statements: list[ast.stmt], call: ast.stmt) -> None:
    for node in ast.walk(function):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list) and any(item is statements[0] for item in block):
                at = next(index for index, item in enumerate(block) if item is statements[0])
                block[at : at + len(statements)] = [call]
                return
