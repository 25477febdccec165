"""What to write instead: for each kind of finding, with the user's own expressions."""

from fxquant.check.fixes.fix import Fix
from fxquant.check.fixes.fix_for import fix_for

__all__ = ["Fix", "fix_for"]
