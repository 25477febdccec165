"""One list of what was seen, from three witnesses: capture, the eager run, and plain tracing."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace

from torch import nn

from fxquant.capture.facts import NOT_RAISED
from fxquant.capture.names_in_code import names_in
from fxquant.check.finding import FindingKind
from fxquant.check.hooks import defined, forward_hooks_of, gradient_hooks_of, name_of
from fxquant.check.kinds import MEANINGS, Rule
from fxquant.check.observation import Observation, Place
from fxquant.check.source_tree import Sources

_K = FindingKind
_VALUES = (_K.TENSOR_BRANCH, _K.TENSOR_NUMBER, _K.TENSOR_NUMPY)
_BLOCKS = (_K.GRAD_MODE, _K.AUTOCAST)
_UPDATES = (_K.ATTRIBUTE_UPDATE, _K.CONTAINER_UPDATE)
_VAGUE = (_K.ERROR, _K.OPAQUE_CALL)
_DRAWN = (_K.PYTHON_RANDOM, _K.TIME)
DECIDES = "decides"
"""Value of what is no draw, but asks for a number that was drawn before."""
# Kinds that are facts of the model as a whole, and need no line.
_OF_MODELS = frozenset(
    (
        _K.FLAG, _K.PRESENCE, _K.KEYWORDS, _K.ROOT_LEAF, _K.COMPOSITE, _K.DATA_PARALLEL, _K.COMPILED, _K.RECURRENT,
        _K.SCRIPTED, _K.ROOT_HOOK, _K.MODULE_HOOK, _K.MODULE_IN_CONTAINER, _K.HIDDEN_CASE, _K.ERROR,
    )
)  # fmt: skip
# Names that capture gives to what it puts on its copy of the model.
_MADE_BY_CAPTURE = ("_tensor_constant", "_unregistered_")


def merge(
    captured: Iterable[Observation],
    eager: Iterable[Observation],
    model: nn.Module,
    sources: Sources,
    modules: Mapping[tuple[str, int], Collection[str]],
) -> list[Observation]:
    """One observation per kind and line, and per expression on it that takes values of tensors into Python.

    Args:
        captured: what capture recorded; says how each was dealt with.
        eager: what happened in the eager run; its places are exact.
        model: the user's model.
        sources: parsed files.
        modules: by line, paths of the modules whose forward ran it.
    """
    run = [_asked_of_tensor(item, sources) for item in eager]
    captured = [_asked_of_tensor(item, sources) for item in captured]
    captured = _where_it_happened(captured, run)
    known = {item.key: item for item in reversed(run)}
    found: dict[object, Observation] = {}
    blocks: dict[FindingKind, str] = {}
    kinds = {path: type(module) for path, module in model.named_modules() if path}
    for item in captured:
        placed = _in_its_module(_with_kind(_placed(item, model, sources), kinds), modules)
        if placed.kind in _BLOCKS and placed.key not in known:
            blocks[placed.kind] = placed.handled  # capture names the line that a decorator is used on
        elif not _is_noise(placed, known):
            _add(found, placed, known.get(placed.key))
    for item in run:
        handled = item.handled or blocks.get(item.kind, "")
        _add(found, _with_kind(replace(item, handled=handled), kinds), None)
    items = _without_echoes([_with_cause(item, found.values(), known, sources) for item in found.values()], known)
    return [each for item in items for each in (item, *_others_on_line(item, run))]


def _others_on_line(item: Observation, run: Iterable[Observation]) -> Iterator[Observation]:
    """The same of other expressions on a line that take values into Python: ``a, b = x.item(), y.item()``."""
    told = [item.place.expression]
    for other in run if item.kind in _VALUES and all(told) else ():
        expression = other.place.expression
        if other.key == item.key and expression and not any(expression in text or text in expression for text in told):
            told.append(expression)
            yield replace(item, place=replace(item.place, expression=expression), value=other.value)


def _asked_of_tensor(item: Observation, sources: Sources) -> Observation:
    """The observation; of ``mask is None or mask.all()`` Python says that the last part is where the first one is."""
    if item.kind is not _K.TENSOR_BRANCH or not item.place.expression:
        return item
    file = sources.file(item.place.file)
    node = file.expression_like(item.place.line, item.place.expression)
    around = file.parent(node) if node is not None else None
    if node is None or not _is_identity(node) or not isinstance(around, ast.BoolOp):
        return item
    following = around.values[around.values.index(node) + 1 :]
    asked = next((part for part in following if not _is_identity(part)), None)
    if asked is None:
        return item
    return replace(item, place=replace(item.place, expression=" ".join(file.source_of(asked).split())))


def _is_identity(node: ast.expr) -> bool:
    return isinstance(node, ast.Compare) and all(isinstance(item, (ast.Is, ast.IsNot)) for item in node.ops)


def _with_cause(
    item: Observation, items: Collection[Observation], known: Collection[object], sources: Sources
) -> Observation:
    """The observation; what capture takes for the value of a tensor may be a number that was drawn in Python."""
    draws = [other.place for other in items if other.kind is _K.PYTHON_RANDOM and other.place.file == item.place.file]
    itself = any(draw.line == item.place.line for draw in draws)
    if item.kind not in _VALUES or item.key in known or itself or not item.place.expression:
        return item
    file = sources.file(item.place.file)
    node = file.expression_like(item.place.line, item.place.expression)
    if node is None and isinstance(above := file.statement_at(item.place.line), (ast.If, ast.While, ast.Assert)):
        node = above.test
    read = names_in(node) if node is not None else set()
    for draw in draws:
        statement = file.statement_at(draw.line)
        assigned = {ast.unparse(target) for target in getattr(statement, "targets", ())}
        if statement and node and read & assigned and file.function_of(statement) is file.function_of(node):
            return replace(item, kind=_K.PYTHON_RANDOM, value=DECIDES)
    return item


def _with_kind(item: Observation, kinds: Mapping[str, type]) -> Observation:
    """The observation, with the class of torch.nn in which it happened."""
    kind = kinds.get(item.place.module_path)
    of_torch = kind is not None and kind.__module__.startswith("torch.nn.")
    return replace(item, inside=kind.__name__) if kind is not None and of_torch else item


def _where_it_happened(captured: Iterable[Observation], run: list[Observation]) -> Iterator[Observation]:
    """Changes of attributes at the lines where the eager run saw them; capture may name the line that called."""
    seen: dict[tuple[str, str], list[Observation]] = {}
    at_line: dict[tuple[str, int, str], list[Observation]] = {}
    for item in run:
        if item.kind in (*_UPDATES, _K.BUFFER_UPDATE) and item.value:
            name = item.value.removeprefix("self.")
            for path in {item.place.module_path, item.owner} - {None}:
                seen.setdefault((str(path), name), []).append(item)
            at_line.setdefault((item.place.file, item.place.line, name), []).append(item)
    for item in captured:
        name = item.value.removeprefix("self.")
        same = seen.get((item.place.module_path, name), []) or at_line.get((item.place.file, item.place.line, name), [])
        if item.kind in _UPDATES and same and item.key not in {other.key for other in same}:
            for other in same:
                yield replace(item, kind=other.kind, place=other.place, owner=other.owner)
        else:
            yield item


def _add(found: dict[object, Observation], item: Observation, seen: Observation | None) -> None:
    if seen is not None:
        place = replace(seen.place, module_path=item.place.module_path)
        handled, value = item.handled or seen.handled, item.value or seen.value
        item = replace(item, place=place, value=value, handled=handled, owner=seen.owner)
    before = found.get(item.key)
    if before is None:
        found[item.key] = item
    else:
        if before.value == NOT_RAISED != item.value:  # of several operations on a line, the one that raises
            before = replace(before, value=item.value, place=replace(before.place, expression=item.place.expression))
        others = dict.fromkeys((*before.others, *item.module_paths))
        found[item.key] = replace(
            before,
            handled=_handled_in_both(before, item),
            value=before.value or item.value,
            owner=before.owner or item.owner,
            others=tuple(path for path in others if path != before.place.module_path),
        )


def _handled_in_both(first: Observation, second: Observation) -> str:
    """How one event was dealt with in two modules: where that was done alike, both are named."""
    before, mark, _ = first.handled.partition(repr(first.place.module_path))
    name = repr(second.place.module_path)
    if mark and name not in first.handled and second.handled == f"{before}{name}":
        return f"{first.handled}, {name}"
    return first.handled or second.handled


def _is_noise(item: Observation, known: dict[tuple[FindingKind, str, int], Observation]) -> bool:
    """Facts of torch's own code, of code that Python wrote, and of what capture itself put on its copy."""
    if item.value.removeprefix("self.").startswith(_MADE_BY_CAPTURE):
        return True
    if not item.place.file:
        return item.kind not in _OF_MODELS
    return item.place.file.startswith("<") and not item.place.code and item.key not in known


def _placed(item: Observation, model: nn.Module, sources: Sources) -> Observation:
    """The observation, under the kind and at the line that say most."""
    if item.kind is _K.FLAG and not item.place.file:
        return replace(item, place=first_use(item.value.partition("=")[0], model, sources))
    if item.kind is _K.MODULE_HOOK:
        return _with_hooks(item, model, sources)
    if item.kind is _K.DIVERGENCE:
        return _where_it_is_called(item, model, sources)
    if item.kind is _K.SIZE and item.place.file:
        file = sources.file(item.place.file)
        node = file.expression_like(item.place.line, item.place.expression) if item.place.expression else None
        if node is not None and any(_is_range(part) for part in (node, *file.parents(node))):
            return replace(item, kind=_K.SIZE_LOOP)
    return item


def _in_its_module(item: Observation, modules: Mapping[tuple[str, int], Collection[str]]) -> Observation:
    """The observation in a module that runs its line; capture may name one that was called just before."""
    place = item.place
    paths = modules.get((place.file, place.line), ())
    if not paths or place.module_path in paths:
        return item
    return replace(item, place=replace(place, module_path=min(paths)))


def _where_it_is_called(item: Observation, model: nn.Module, sources: Sources) -> Observation:
    """A divergence in a module of torch.nn at the user's line: the model's ``__call__``, or the line that calls it."""
    path, own = item.place.module_path, type(model).__call__
    if not type(dict(model.named_modules()).get(path)).__module__.startswith("torch.nn."):
        return item
    owner, _, name = path.rpartition(".")
    calls_it = own is nn.Module.__call__
    place = first_use(f"self.{name}", model.get_submodule(owner), sources) if calls_it else defined(own, sources)
    return replace(item, place=replace(place, module_path=path)) if place.file else item


def _with_hooks(item: Observation, model: nn.Module, sources: Sources) -> Observation:
    """Hooks by their names: capture names the module that has them."""
    module = dict(model.named_modules()).get(item.value)
    if module is None:  # inside of what capture opened
        return item
    if item.value:
        names = ", ".join(map(name_of, (*forward_hooks_of(module), *gradient_hooks_of(module))))
        return replace(item, value=f"{names} on {item.value}")
    hooks = gradient_hooks_of(module)  # the others on the model itself are seen without running it
    place = defined(hooks[0], sources) if hooks and not item.place.file else item.place
    return replace(item, kind=_K.ROOT_HOOK, place=place, value=", ".join(map(name_of, hooks)))


def _as_text(item: Observation, texts: Mapping[tuple[str, int], str]) -> Observation:
    """A value that is taken into a text, with what becomes of the text."""
    if item.handled or item.key[1:] not in texts:
        return item
    return replace(item, handled=texts[item.key[1:]] or "the graph makes no texts, and prints none")


def _is_range(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range"


def first_use(name: str, model: nn.Module, sources: Sources) -> Place:
    """The first line of forward that reads one of its parameters, or an attribute: ``self.layer``."""
    code = getattr(model.forward, "__code__", None)
    file = sources.file(code.co_filename) if code is not None else None
    function = file.function_at(code) if file is not None and code is not None else None
    for node in ast.walk(function) if function is not None else ():
        reads = isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Load)
        if reads and ast.unparse(node) == name and file is not None:
            line = getattr(node, "lineno", 0)
            return Place(file.path, line, file.line(line), "", name)
    return Place()


def _is_echo(item: Observation, known: dict[tuple[FindingKind, str, int], Observation]) -> bool:
    """Whether a value that capture was asked for is likely the one that was taken out of a tensor on the same line."""
    return item.kind in _VALUES and item.key not in known and not item.handled.startswith("built in")


def _without_echoes(
    items: list[Observation], known: dict[tuple[FindingKind, str, int], Observation]
) -> list[Observation]:
    """Leave out errors of known cause, and values of tensors that are in truth numbers drawn in Python."""
    made = any(key[0] is _K.MODULE_IN_FORWARD for key in known)  # and where: capture names the line that calls it
    items = [item for item in items if not (made and item.kind is _K.MODULE_IN_FORWARD and item.key not in known)]
    numbers = {item.key[1:] for item in items if item.kind is _K.TENSOR_NUMBER}
    texts = {item.key[1:]: item.handled for item in items if item.kind is _K.FORMAT}
    items = [item for item in items if not (item.kind is _K.FORMAT and item.key[1:] in numbers)]
    items = [_as_text(item, texts) if item.kind is _K.TENSOR_NUMBER else item for item in items]
    lost = [item for item in items if MEANINGS[item.kind].rule is Rule.LOST and item.kind not in _VAGUE]
    causes = {(item.place.file, item.place.line) for item in lost}
    asked = {key[1:] for key in known if key[0] in _VALUES}
    drawn = {(item.place.file, item.place.line) for item in items if item.kind in _DRAWN}
    modes = {item.place.module_path for item in items if item.kind in _UPDATES and item.value == "self.training"}
    items = [item for item in items if not (item.kind is _K.DIVERGENCE and item.place.module_path in modes)]
    return [
        item
        for item in items
        if not (item.kind in _VAGUE and (item.place.file, item.place.line) in causes)
        and not (item.kind in _VALUES and item.key not in known and (item.place.file, item.place.line) in drawn)
        and not (_is_echo(item, known) and (item.place.file, item.place.line) in asked)
    ]
