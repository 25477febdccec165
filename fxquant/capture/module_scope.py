"""Which module's forward runs while nodes are recorded, and which of its calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.fx.proxy import Scope, ScopeContextManager


class ModuleScope(Scope):
    """The scope of a trace, with a number for each call of a module.

    Attributes:
        call: number of the call that runs, 0 for the root's.
        calls: how many calls began.
        simple: whether the module that runs has no modules in it.
    """

    def __init__(self, module_path: str, module_type: type[nn.Module]) -> None:
        super().__init__(module_path, module_type)
        self.call = 0
        self.calls = 0
        self.simple = False

    @contextmanager
    def entered(self, path: str, module: nn.Module) -> Iterator[None]:
        """While it lasts, nodes are those of one call of ``module``."""
        self.calls += 1
        outer = self.call, self.simple
        self.call, self.simple = self.calls, not module._modules
        try:
            with ScopeContextManager(self, Scope(path, type(module))):
                yield
        finally:
            self.call, self.simple = outer
