"""Models in one file: plain tensors and JSON, nothing of which is ever executed."""

from fxquant.storage.load_model import load
from fxquant.storage.save_model import save

__all__ = ["load", "save"]
