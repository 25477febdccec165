"""The tasks behind `fxquant demo`: real trained networks with real data, nothing downloaded at run time."""

from __future__ import annotations

from collections.abc import Callable

from fxquant.demo.digits import digits_task
from fxquant.demo.efficientnet import efficientnet_task
from fxquant.demo.task import DemoTask, Progress, format_metric
from fxquant.errors import FxquantError

__all__ = ["TASKS", "DemoTask", "Progress", "build_task", "format_metric"]

TASKS: dict[str, Callable[[Progress | None], DemoTask]] = {
    "digits": lambda progress: digits_task(progress=progress),
    "efficientnet_lite0": lambda progress: efficientnet_task(progress=progress),
}
"""Every demo by the name that `fxquant demo --model NAME` takes."""


def build_task(name: str, progress: Progress | None = None) -> DemoTask:
    """Build one demo task: train or load its network and cut its data.

    Args:
        name: a key of `TASKS`.
        progress: called as `progress(done, total, what)` while the task is being built.

    Raises:
        FxquantError: no task has that name, or a package of the extra `demo` is missing.
    """
    if name not in TASKS:
        raise FxquantError(f"there is no demo model {name!r}", remedy=f"choose one of: {', '.join(TASKS)}")
    return TASKS[name](progress)
