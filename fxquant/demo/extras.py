"""Import of the optional packages that the demo needs, with an error that says how to get them."""

from __future__ import annotations

import importlib
from types import ModuleType

from fxquant.errors import FxquantError

INSTALL_COMMAND = "pip install 'fxquant[demo]'"


def require(module: str, package: str) -> ModuleType:
    """Import an optional module.

    Args:
        module: dotted name to import, as `"sklearn.datasets"`.
        package: the name under which pip installs it, as `"scikit-learn"`.

    Returns:
        The imported module.

    Raises:
        FxquantError: the module, or something it imports, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise FxquantError(
            f"the demo needs the package {package!r}, which cannot be imported ({error})",
            remedy=INSTALL_COMMAND,
        ) from error
