"""What a fix is made of, and from what."""

from __future__ import annotations

import ast
import io
import tokenize
from dataclasses import dataclass, replace

from fxquant.capture.branches import function_name, is_not
from fxquant.check.finding import Edit
from fxquant.check.observation import Observation
from fxquant.check.source_tree import SourceFile

# Functions of Python that decide by what they are given.
_DECIDING = frozenset(("min", "max", "sorted", "any", "all", "bool"))


@dataclass(frozen=True)
class Fix:
    """What to do about a finding.

    Attributes:
        text: in words, with the user's own expressions.
        edit: the same as a change of the source, None where it takes more than that.
        otherwise: what to do where the model does not run with the edit; None for what its kind says.
    """

    text: str
    edit: Edit | None = None
    otherwise: Fix | None = None

    def unless_it_fails(self, otherwise: Fix) -> Fix:
        """This fix where its edit runs, else what it has in its place, and at last another one."""
        if self.otherwise is not None:
            otherwise = self.otherwise.unless_it_fails(otherwise)
        return replace(self, otherwise=otherwise)


@dataclass(frozen=True)
class Subject:
    """What a fix is for.

    Attributes:
        seen: what was seen.
        file: the user's file.
        node: the expression that did it, None when the source does not show it.
        statement: the statement it is in.
        number: text of a number that Python took out of a tensor, and that of the tensor to write instead.
    """

    seen: Observation
    file: SourceFile
    node: ast.expr | None
    statement: ast.stmt | None
    number: tuple[str, str] | None = None

    def source_of(self, node: ast.AST) -> str:
        """The text of ``node``, on one line."""
        text = self.file.source_of(node)
        text = ast.unparse(node) if "\n" in text else text
        return text.replace(*self.number) if self.number is not None else text

    def replacing(self, old: ast.expr, new: str, also: str = "") -> Fix:
        """The fix that puts ``new`` where ``old`` stands.

        Args:
            old: an expression.
            new: its replacement.
            also: what else to say.
        """
        first, last = old.lineno, old.end_lineno or old.lineno
        before = self.file.lines[first - 1].encode()[: old.col_offset].decode()
        after = self.file.lines[last - 1].encode()[old.end_col_offset :].decode().rstrip("\n")
        return self._written(first, last, f"{before}{new}{after}", also)

    def rewriting(self, statement: ast.stmt, lines: list[str], also: str = "", last: int = 0) -> Fix:
        """The fix that puts other lines in the place of a statement, up to line ``last`` where that is given."""
        indentation = self.file.indentation(statement.lineno)
        before = self.file.lines[statement.lineno - 1].encode()[: statement.col_offset].decode()
        after = self.file.lines[(statement.end_lineno or 1) - 1].encode()[statement.end_col_offset :].decode()
        if before.strip() or after.lstrip().startswith(";"):  # other statements on its lines stay
            lines = [f"{before}{'; '.join(lines)}{after}".strip()]
        text = "\n".join(f"{indentation}{line}" for line in lines)
        return self._written(statement.lineno, last or statement.end_lineno or statement.lineno, text, also)

    def _written(self, first: int, last: int, text: str, also: str) -> Fix:
        shown = "; ".join(_without_comment(line.strip()) for line in text.split("\n"))
        return Fix(f"write `{shown}`{also}", Edit(self.file.path, first, last, text))

    def decision(self, node: ast.expr) -> ast.expr | None:
        """The expression by which Python decides and that ``node`` is part of: a test, ``min(a, b)``; None for none."""
        inside: ast.AST = node
        for above in self.file.parents(node):
            if isinstance(above, ast.BoolOp) or is_not(above):
                return above
            if isinstance(above, ast.Call) and called_name(above) in _DECIDING and isinstance(above.func, ast.Name):
                return above
            if inside is getattr(above, "test", None) or inside in getattr(above, "ifs", ()):
                return inside if isinstance(inside, ast.expr) else None
            if isinstance(above, ast.stmt):
                return None
            inside = above
        return None

    @property
    def float_setting(self) -> str:
        """How to keep the modules float in which it happened."""
        paths = self.seen.module_paths
        if all(paths):
            which = "module" if len(paths) == 1 else "modules"
            return f"keep the {which} float: PrepareCustomConfig().set_non_traceable_module_names({list(paths)!r})"
        return (
            "move it into a module of its own and keep that float: "
            "PrepareCustomConfig().set_non_traceable_module_names([its path])"
        )


def _without_comment(line: str) -> str:
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(line).readline))
    except (tokenize.TokenError, SyntaxError):  # a part of a statement
        return line
    comment = next((token for token in tokens if token.type == tokenize.COMMENT), None)
    return line if comment is None else line[: comment.start[1]].rstrip()


def called_name(node: ast.AST | None) -> str:
    """Last part of the name of the function that ``node`` calls: ``relu`` of ``F.relu(x)``; "" when it is no call."""
    return function_name(node.func) if isinstance(node, ast.Call) else ""


def called_on(node: ast.AST | None) -> str:
    """What stands before the last part of the called name: ``F`` of ``F.relu(x)``."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return ast.unparse(node.func.value)
    return ""
