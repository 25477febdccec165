"""Attention captured from the inside: the graph computes what eager computes, for every spelling, size and mask."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant import pipeline
from fxquant.capture.facts import FactKind
from fxquant.ir.meta import info

Inputs = dict[str, Tensor]


@contextmanager
def module_by_module() -> Iterator[None]:
    """Eager without torch's fused kernels for whole layers, whose sums are ordered differently."""
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    with torch.no_grad():
        yield
    torch.backends.mha.set_fastpath_enabled(was)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [tensor for item in value or () for tensor in _tensors(item)]


def check(
    model: nn.Module, inputs: Callable[[int, int, bool], Inputs], visible: Callable[..., Any] | None = None
) -> None:
    """Capture on masks that hide nothing; compare on others, on another batch and on another length.

    Args:
        model: in eval mode.
        inputs: makes keyword inputs from batch, length, and whether masks hide something.
        visible: picks what to compare with eager's fused kernels, which put zeros where input is padding.
    """
    captured = pipeline.capture(model, inputs(2, 5, False))
    names = {str(getattr(node.target, "__name__", node.target)) for node in captured.graph.nodes}
    assert not any("multi_head" in name or "native" in name or "nested" in name for name in names)
    kinds = {fact.kind for fact in captured.state.facts}
    assert kinds.isdisjoint((FactKind.SIZE, FactKind.SIZE_LOOP, FactKind.SIZE_CONSTANT)), "a size was built in"
    for batch, length, hides in ((2, 5, False), (2, 5, True), (3, 5, True), (1, 7, True), (4, 3, False)):
        given = inputs(batch, length, hides)
        with module_by_module():
            expected, actual = _tensors(model(**given)), _tensors(captured(**given))
        assert len(actual) == len(expected)
        assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True)), (batch, length, hides)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nested tensors announce that they are a prototype
            fused = _tensors(model(**given))
        for a, e in zip(actual, fused, strict=True):
            a, e = (a, e) if visible is None else (visible(a, given), visible(e, given))
            assert (a - e).norm() <= 1e-6 * e.norm()


class Attend(nn.Module):
    """nn.MultiheadAttention called with fixed flags."""

    def __init__(self, flags: dict[str, Any], shared: str = "qkv", **kwargs: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, **kwargs)
        self.flags, self.shared = flags, shared
        for bias in (self.attention.in_proj_bias, self.attention.out_proj.bias):
            if bias is not None:
                nn.init.normal_(bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **masks: Tensor) -> Any:
        key = query if self.shared == "qkv" else key
        value = key if self.shared in ("qkv", "kv") else value
        return self.attention(query, key, value, **masks, **self.flags)


def _float(hidden: Tensor) -> Tensor:
    return torch.zeros(hidden.shape).masked_fill(hidden, -torch.inf)


def _masks(kinds: str, batch: int, length: int, keys: int, hides: bool) -> Inputs:
    """Masks by ``kinds``: ``p`` of padding, ``a`` of attention [L, S], ``h`` the same by head; upper case for float."""
    found: Inputs = {}
    for kind in kinds:
        shape = {"p": (batch, keys), "a": (length, keys), "h": (batch * 2, length, keys)}[kind.lower()]
        hidden = torch.rand(shape) < (0.4 if hides else -1.0)
        hidden[..., 0] = False
        name = "key_padding_mask" if kind in "pP" else "attn_mask"
        found[name] = _float(hidden) if kind.isupper() else hidden
    return found


VARIANTS: dict[str, tuple[dict[str, Any], str]] = {
    "plain": ({}, ""),
    "weights by head": ({"flags": {"average_attn_weights": False}}, "a"),
    "no weights": ({"flags": {"need_weights": False}}, ""),
    "no weights, masks": ({"flags": {"need_weights": False}}, "pa"),
    "no weights, padding": ({"flags": {"need_weights": False}}, "p"),
    "no weights, mask by head": ({"flags": {"need_weights": False}}, "h"),
    "float masks": ({}, "PA"),
    "mask by head": ({"shared": "kv"}, "H"),
    "batch first": ({"batch_first": True, "flags": {"need_weights": False}}, "PH"),
    "batch first, cross": ({"batch_first": True, "shared": "kv"}, "pa"),
    "three inputs": ({"shared": "none"}, "p"),
    "no bias": ({"bias": False, "shared": "none"}, "a"),
    "bias_k and zeros": ({"add_bias_kv": True, "add_zero_attn": True}, "pa"),
    "bias_k and zeros, no weights": (
        {"add_bias_kv": True, "add_zero_attn": True, "flags": {"need_weights": False}}, "PA",
    ),
    "other sizes": ({"kdim": 6, "vdim": 10, "shared": "none"}, "p"),
    "other sizes, no weights": ({"kdim": 6, "vdim": 10, "shared": "none", "flags": {"need_weights": False}}, "A"),
}  # fmt: skip


@pytest.mark.parametrize("title", VARIANTS)
def test_multihead_attention(title: str) -> None:
    kwargs, masks = VARIANTS[title]
    kwargs = {"flags": {}, "shared": "qkv", **kwargs}
    model = Attend(**kwargs).eval()
    own, first = kwargs["shared"] == "qkv", kwargs.get("batch_first", False)

    def inputs(batch: int, length: int, hides: bool) -> Inputs:
        torch.manual_seed(batch * length + hides)
        keys = length if own else length + 2
        sizes = {"query": (length, 8), "key": (keys, kwargs.get("kdim", 8)), "value": (keys, kwargs.get("vdim", 8))}
        made = {name: torch.randn(batch, *size) for name, size in sizes.items()}
        made = made if first else {name: tensor.transpose(0, 1).contiguous() for name, tensor in made.items()}
        found = _masks(masks, batch, length, keys, hides)
        added = {name: mask - torch.rand(mask.shape) for name, mask in found.items() if mask.is_floating_point()}
        return {**made, **found, **added}

    check(model, inputs)


@pytest.mark.parametrize("need_weights", [True, False])
def test_unbatched_and_causal(need_weights: bool) -> None:
    unbatched = Attend({"need_weights": need_weights}).eval()
    causal = Attend({"need_weights": need_weights, "is_causal": True}).eval()

    def without_batch(batch: int, length: int, hides: bool) -> Inputs:
        x = torch.randn(length + batch, 8)
        masks = _masks("pa", 1, length + batch, length + batch, hides)
        return {"query": x, "key": x, "value": x, **masks, "key_padding_mask": masks["key_padding_mask"][0]}

    def with_causal_mask(batch: int, length: int, hides: bool) -> Inputs:
        x, mask = torch.randn(length, batch, 8), nn.Transformer.generate_square_subsequent_mask(length)
        return {"query": x, "key": x, "value": x, "attn_mask": mask}

    check(unbatched, without_batch)
    check(causal, with_causal_mask)


class Pooling(nn.Module):
    """The functional form with weights of other modules and an output of another size, as in CLIP's pooling."""

    def __init__(self, static: bool = False) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(8, 8) for _ in range(3))
        self.c_proj, self.static = nn.Linear(8, 6), static

    def forward(self, x: Tensor, keys: Tensor) -> Tensor:
        return F.multi_head_attention_forward(
            x[:1], x, x, 8, 2, None, torch.cat([self.q_proj.bias, self.k_proj.bias, self.v_proj.bias]), None, None,
            False, 0.0, self.c_proj.weight, self.c_proj.bias, training=self.training, need_weights=False,
            use_separate_proj_weight=True, q_proj_weight=self.q_proj.weight, k_proj_weight=self.k_proj.weight,
            v_proj_weight=self.v_proj.weight, static_k=keys if self.static else None,
            static_v=keys + 1 if self.static else None,
        )[0]  # fmt: skip


@pytest.mark.parametrize("static", [False, True])
def test_functional_form(static: bool) -> None:
    def inputs(batch: int, length: int, hides: bool) -> Inputs:
        return {"x": torch.randn(length, batch, 8), "keys": torch.randn(batch * 2, length + 1, 4)}

    model = Pooling(static).eval()
    check(model, inputs)
    captured = pipeline.capture(model, inputs(2, 5, False))
    paths = {info(node).origin.module_path for node in captured.graph.nodes if info(node).op == "linear"}
    assert paths == {"q_proj", "c_proj"} if static else {"q_proj", "k_proj", "v_proj", "c_proj"}


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("masks", ["", "p", "A", "PA", "causal"])
def test_encoder(first: bool, norm_first: bool, masks: str) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=first, norm_first=norm_first)
    model = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(8)).eval()
    names = {"key_padding_mask": "src_key_padding_mask", "attn_mask": "mask"}

    def inputs(batch: int, length: int, hides: bool) -> Inputs:
        torch.manual_seed(length)
        src = torch.randn(batch, length, 8) if first else torch.randn(length, batch, 8)
        if masks == "causal":
            return {"src": src, "mask": nn.Transformer.generate_square_subsequent_mask(length)}
        found = _masks(masks, batch, length, length, hides)
        if masks == "p":  # padding at the end: what makes eager use nested tensors
            hidden = torch.arange(length) >= torch.tensor([length - hides * (i % 2) for i in range(batch)])[:, None]
            found["key_padding_mask"] = hidden
        return {"src": src, **{names[name]: mask for name, mask in found.items()}}

    def visible(value: Tensor, given: Inputs) -> Tensor:
        return (value if first else value.transpose(0, 1))[~given["src_key_padding_mask"]]

    check(model, inputs, visible if masks == "p" else None)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
@pytest.mark.parametrize("first", [True, False])
def test_encoder_and_decoder(first: bool) -> None:
    model = nn.Transformer(8, 2, 1, 2, 16, batch_first=first)
    model.encoder.use_nested_tensor = False

    def inputs(batch: int, length: int, hides: bool) -> Inputs:
        torch.manual_seed(length)
        src, tgt = torch.randn(batch, length, 8), torch.randn(batch, length + 1, 8)
        padding = _masks("P", batch, length, length, hides)["key_padding_mask"]
        return {
            "src": src if first else src.transpose(0, 1),
            "tgt": tgt if first else tgt.transpose(0, 1),
            "tgt_mask": nn.Transformer.generate_square_subsequent_mask(length + 1),
            "src_key_padding_mask": padding,
            "memory_key_padding_mask": padding,
        }

    check(model.eval(), inputs)


def test_the_model_and_torch_are_as_before() -> None:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).eval()
    before = [dict(vars(module)) for module in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    detect, dtype = nn.modules.transformer._detect_is_causal_mask, F._none_or_dtype
    pipeline.capture(model, {"src": torch.randn(2, 5, 8), "src_key_padding_mask": torch.zeros(2, 5, dtype=torch.bool)})
    assert [dict(vars(module)) for module in model.modules()] == before
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.backends.mha.get_fastpath_enabled()
    assert (nn.modules.transformer._detect_is_causal_mask, F._none_or_dtype) == (detect, dtype)
