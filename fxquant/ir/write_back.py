"""Putting back into the caller's containers what forward changed in them: caches and batches that are inputs."""

from __future__ import annotations

from typing import Any


def put_item(container: dict[Any, Any], key: Any, value: Any) -> None:
    """Set an entry of a dictionary that is an input."""
    container[key] = value


def remove_item(container: dict[Any, Any], key: Any) -> None:
    """Remove an entry of a dictionary that is an input."""
    del container[key]


def put_items(container: list[Any], items: list[Any] | tuple[Any, ...]) -> None:
    """Let a list that is an input have other elements."""
    container[:] = items


WRITES = (put_item, remove_item, put_items)
