"""Fixes for calls that decide by values inside: sorting by a key, distributions that check their arguments."""

from __future__ import annotations

import ast

import torch

from fxquant.check.fixes.fix import Fix, Subject, called_name, called_on

_PICKS = {"sort": "argsort", "sorted": "argsort", "max": "argmax", "min": "argmin"}


def fix_inner_decision(node: ast.Call, subject: Subject) -> Fix:
    """The fix for a call that decides by the value of a tensor, where its caller does not."""
    name = called_name(node)
    if name in _PICKS:
        return _fix_order(node, _PICKS[name], subject)
    if name in torch.distributions.__all__ and not any(key.arg == "validate_args" for key in node.keywords):
        given = [subject.source_of(item) for item in node.args]
        given += [f"{key.arg}={subject.source_of(key.value)}" for key in node.keywords]
        text = f"{subject.source_of(node.func)}({', '.join([*given, 'validate_args=False'])})"
        return subject.replacing(node, text, ": the check of the arguments decides by their values")
    return Fix(f"use operations of torch instead of `{subject.source_of(node)}`; or {subject.float_setting}")


def _fix_order(node: ast.Call, pick: str, subject: Subject) -> Fix:
    """Sorting, or picking the best of a list, as an index into a tensor."""
    given = list(map(subject.source_of, node.args))
    listed = called_on(node) or (given[0] if len(given) == 1 else f"[{', '.join(given)}]")
    key = next((item.value for item in node.keywords if item.arg == "key"), None)
    score, item = "item", "item"
    if isinstance(key, ast.Lambda) and len(key.args.args) == 1:
        score, item = subject.source_of(key.body), key.args.args[0].arg
    elif key is not None:
        score = f"{subject.source_of(key)}(item)"
    return Fix(
        f"sort in torch: `order = torch.stack([{score} for {item} in {listed}]).{pick}()`, and "
        f"`torch.stack(tuple({listed}))[order]` is what comes out; or {subject.float_setting}"
    )
