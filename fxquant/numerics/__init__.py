"""The arithmetic of quantization on plain tensors: nothing here knows of graphs, modules or backends."""

from fxquant.numerics.affine import dequantize, fake_quantize, quantize
from fxquant.numerics.batch_norm import fold_batch_norm, fold_batch_norm_before
from fxquant.numerics.bias import weight_error_bias
from fxquant.numerics.histogram import add_to_histogram
from fxquant.numerics.pair_limit import PAIR_LIMIT, PairOrder, limit_pairs, max_pair_sum, pairs_along
from fxquant.numerics.qparams import FLOAT32_EPS, SMALLEST_SCALE, choose_float_qparams, choose_qparams
from fxquant.numerics.range_search import search_range, search_ranges
from fxquant.numerics.sqnr import sqnr_db

__all__ = [
    "FLOAT32_EPS",
    "PAIR_LIMIT",
    "SMALLEST_SCALE",
    "PairOrder",
    "add_to_histogram",
    "choose_float_qparams",
    "choose_qparams",
    "dequantize",
    "fake_quantize",
    "fold_batch_norm",
    "fold_batch_norm_before",
    "limit_pairs",
    "max_pair_sum",
    "pairs_along",
    "quantize",
    "search_range",
    "search_ranges",
    "sqnr_db",
    "weight_error_bias",
]
