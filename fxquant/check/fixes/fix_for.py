"""From a finding's kind to its fix."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fxquant.check.finding import Edit, FindingKind
from fxquant.check.fixes.branches import fix_branch
from fxquant.check.fixes.calls import (
    fix_factory,
    fix_item_assignment,
    fix_module_in_container,
    fix_module_in_forward,
    fix_unpacking,
)
from fxquant.check.fixes.effects import (
    fix_autocast,
    fix_dropout,
    fix_error,
    fix_grad_mode,
    fix_input_update,
    fix_python_random,
    fix_torch_random,
    fix_update,
)
from fxquant.check.fixes.fix import Fix, Subject
from fxquant.check.fixes.numbers import (
    fix_format,
    fix_loop,
    fix_numpy,
    fix_size,
    fix_size_branch,
    fix_tensor_number,
)
from fxquant.check.observation import Observation
from fxquant.check.source_tree import Sources
from fxquant.check.try_edit import EditTrial

_K = FindingKind

_REWRITES: Mapping[FindingKind, Callable[[Subject], Fix]] = {
    _K.TENSOR_BRANCH: fix_branch,
    _K.TENSOR_NUMBER: fix_tensor_number,
    _K.TENSOR_NUMPY: fix_numpy,
    _K.SIZE: fix_size,
    _K.SIZE_BRANCH: fix_size_branch,
    _K.SIZE_LOOP: fix_loop,
    _K.FORMAT: fix_format,
    _K.FACTORY: fix_factory,
    _K.ITEM_ASSIGNMENT: fix_item_assignment,
    _K.UNPACKING: fix_unpacking,
    _K.MODULE_IN_FORWARD: fix_module_in_forward,
    _K.MODULE_IN_CONTAINER: fix_module_in_container,
    _K.PYTHON_RANDOM: fix_python_random,
    _K.ALWAYS_DROPOUT: fix_dropout,
    _K.GRAD_MODE: fix_grad_mode,
    _K.AUTOCAST: fix_autocast,
    _K.TORCH_RANDOM: fix_torch_random,
    _K.INPUT_UPDATE: fix_input_update,
    _K.ATTRIBUTE_UPDATE: fix_update,
    _K.CONTAINER_UPDATE: fix_update,
    _K.BUFFER_UPDATE: fix_update,
    _K.GLOBAL_UPDATE: fix_update,
    _K.ERROR: fix_error,
}

_TEXTS: Mapping[FindingKind, str] = {
    _K.STATIC: "nothing to do while inputs keep this; else decide `{expression}` in __init__",
    _K.LENGTH: "nothing to do while inputs keep this length; else capture one model a length",
    _K.FLAG: "nothing to do while {value} stays; else set it in __init__, or capture one model a value",
    _K.PRESENCE: "give an example of every optional input that will be used",
    _K.TYPE_TEST: "nothing to do for fxquant; for plain tracing decide `{expression}` in __init__",
    _K.TRAINING: "use modules that follow train() and eval(), such as nn.Dropout, instead of `{expression}`; for "
    "use in eval mode there is nothing to do",
    _K.GRAD_ENABLED: "decide `{expression}` in __init__ instead",
    _K.SIZE_CONSTANT: "make the tensor from the input, `x.new_zeros(x.shape[0], ...)`, instead of `{expression}`",
    _K.TENSOR_SHAPE: "nothing to do; operators after it are captured with the example's shape",
    _K.KEYWORDS: "nothing to do for fxquant; for plain tracing name the parameters instead of **kwargs",
    _K.ROOT_LEAF: "nothing to do for fxquant; for plain tracing wrap it: `nn.Sequential(model)`",
    _K.COMPOSITE: "nothing to do",
    _K.DATA_PARALLEL: "nothing to do for fxquant; for plain tracing use the wrapped module, `.module`",
    _K.COMPILED: "nothing to do for fxquant; for plain tracing use the module that was compiled, `._orig_mod`",
    _K.CHECKPOINT: "nothing to do",
    _K.WRAPPED_FUNCTION: "nothing to do",
    _K.CUSTOM_FUNCTION: "nothing to do while `{expression}` may stay float; to have it in int8, write it with torch's "
    "operations, a straight-through estimator as `x + (f(x) - x).detach()`",
    _K.TIME: "pass the time as an input instead of `{expression}`",
    _K.ROOT_HOOK: "nothing to do for fxquant; for plain tracing do in forward what the hook does",
    _K.MODULE_HOOK: "do in a module of its own what the hook does: quantization replaces modules and their hooks",
    _K.WRITE_TO_CONSTANT: "register the tensor as a buffer, or make it in forward, `x.new_zeros(...)`",
    _K.HIDDEN_CASE: "give an example with padding: `mask[:, -1] = 0`",
    _K.OPAQUE_CALL: "{setting_first}",
    _K.CAUGHT_ERROR: "decide by what leads to the error, a shape or values, instead of catching it around "
    "`{expression}`",
    _K.RECURRENT: "nothing to do: it stays float",
    _K.SCRIPTED: "use the Python module or function it was made from",
    _K.UNREACHED: "give an example that reaches it, or take the line out of forward",
    _K.PLAIN_TRACING: "nothing to do for fxquant, which captures it: see how it is handled",
    _K.DIVERGENCE: "{setting_first}",
}
_NOTHING = "nothing to do for fxquant, which captures it as it is"
# For changes of the source with which the model does not run.
_OTHERWISE: Mapping[FindingKind, str] = {
    _K.TENSOR_NUMBER: "stay in torch: compute with the tensor instead of `{expression}`; or {setting}",
    _K.TENSOR_NUMPY: "compute in torch instead of `{expression}`; or {setting}",
    _K.SIZE: "keep sizes in the graph instead of `{expression}`: compute with `//`, `*` and slices; or make one model "
    "a size",
    _K.SIZE_BRANCH: "decide `{expression}` in __init__, or capture one model for each branch",
    _K.FACTORY: f"{_NOTHING}; for plain tracing make it once, in __init__",
    _K.ITEM_ASSIGNMENT: f"{_NOTHING}; for plain tracing build the result instead of writing into `{{expression}}`",
    _K.UNPACKING: f"{_NOTHING}; for plain tracing name the elements one by one",
    _K.PYTHON_RANDOM: "draw outside and pass the result as an input instead of `{expression}`; what is seeded in "
    "forward gives the same at every call: draw that once, in __init__",
    _K.ALWAYS_DROPOUT: "use nn.Dropout, which follows train() and eval(), instead of `{expression}`",
    _K.GRAD_MODE: "leave `{expression}` out, and call the whole model under it",
    _K.INPUT_UPDATE: "write into a copy of the input, or use the operation that is not in place",
}


def fix_for(seen: Observation, sources: Sources, trial: EditTrial) -> Fix:
    """What to do about ``seen``; a change of a function that runs is suggested when the model runs with it.

    Args:
        seen: what was seen, and where.
        sources: parsed files.
        trial: tells whether the model runs with a change.
    """
    place = seen.place
    file = sources.file(place.file)
    node = file.expression_like(place.line, place.expression) if place.expression else None
    whole = (item for item in file.statements_at(place.line) if file.source_of(item) == place.expression)
    statement = file.statement_of(node) if node is not None else next(whole, file.statement_at(place.line))
    subject = Subject(seen, file, node, statement)
    if seen.kind in _REWRITES:
        found: Fix | None = _REWRITES[seen.kind](subject)
        while found is not None and found.edit is not None and not _works(found.edit, seen, trial):
            found = found.otherwise
        return found if found is not None else _in_words(_OTHERWISE, subject)
    return _in_words(_TEXTS, subject)


def _works(edit: Edit, seen: Observation, trial: EditTrial) -> bool:
    """Whether an edit can be suggested; where modules are made is not run again."""
    return seen.kind is _K.MODULE_IN_CONTAINER or trial.works(edit, seen)


def _in_words(texts: Mapping[FindingKind, str], subject: Subject) -> Fix:
    """What a table says about a kind."""
    seen, place = subject.seen, subject.seen.place
    setting = subject.float_setting
    shown = place.expression or place.code or "it"
    return Fix(
        texts[seen.kind].format(
            expression=" ".join(shown.split()),
            value=seen.value or "it",
            setting=setting,
            setting_first=setting[0].upper() + setting[1:],
        )
    )
