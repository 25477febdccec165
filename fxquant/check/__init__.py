"""The checker: whether a model can become a graph, and what is in the way."""

from fxquant.check.check_traceable import check_traceable
from fxquant.check.coverage import Coverage, HeldBack
from fxquant.check.finding import Edit, Finding, FindingKind, Severity
from fxquant.check.report import TraceReport

__all__ = ["Coverage", "Edit", "Finding", "FindingKind", "HeldBack", "Severity", "TraceReport", "check_traceable"]
