"""Transformers families with tiny configurations, built in code: random weights, nothing downloaded."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from networks import import_torchvision_models
from torch import Tensor, nn
from trace_subject import Inputs, Subject

VOCABULARY = 99
# What configurations call their sizes; each gets those that it knows.
_SIZES: Mapping[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 128, "head_dim": 8,
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "n_embd": 32, "n_layer": 2,
    "n_head": 4, "n_positions": 128, "image_size": 32, "patch_size": 8, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "ffn_dim": 64, "dim": 32, "n_heads": 4, "n_layers": 2, "hidden_dim": 64,
    "num_layers": 2, "num_heads": 4, "d_ff": 64, "d_kv": 8, "d_inner": 64,
}  # fmt: skip


def tokens(batch: int, length: int) -> Tensor:
    """[batch, length] int64 token numbers, none of them special."""
    return torch.randint(5, VOCABULARY, (batch, length))


def padding(batch: int, length: int) -> Tensor:
    """[batch, length] int64: ones, and zeros for the last tokens of the last row."""
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[-1, length - 3 :] = 0
    return mask


def text(batch: int, step: int) -> Inputs:
    """Token numbers and a padding mask."""
    length = 10 + 3 * step
    return {"input_ids": tokens(batch, length), "attention_mask": padding(batch, length)}


def long_text(batch: int, step: int) -> Inputs:
    """16 token numbers."""
    return {"input_ids": tokens(batch, 16)}


def text_without_mask(batch: int, step: int) -> Inputs:
    """Token numbers alone."""
    return {"input_ids": tokens(batch, 10 + 3 * step)}


def two_texts(batch: int, step: int) -> Inputs:
    """Token numbers for an encoder and a decoder."""
    return {**text(batch, step), "decoder_input_ids": tokens(batch, 6 + 2 * step)}


def pixels(size: int = 32, step: int = 0) -> Callable[[int, int], Inputs]:
    """[batch, 3, size, size] float32 as ``pixel_values``."""
    return lambda batch, further: {"pixel_values": torch.randn(batch, 3, size + step * further, size + step * further)}


def video(batch: int, step: int) -> Inputs:
    """[batch, 4, 3, 32, 32] float32 as ``pixel_values``."""
    return {"pixel_values": torch.randn(batch, 4, 3, 32, 32)}


def waveform(batch: int, step: int) -> Inputs:
    """[batch, samples] float32 as ``input_values``."""
    return {"input_values": torch.randn(batch, 1600 + 800 * step)}


def text_and_image(batch: int, step: int) -> Inputs:
    """Token numbers, a padding mask and pixels."""
    return {**text(batch, step), **pixels()(batch, step)}


def boxed_text(batch: int, step: int) -> Inputs:
    """Token numbers, a padding mask, and a box [batch, length, 4] for each token."""
    given = dict(text(batch, step))
    corners = torch.randint(0, 50, (batch, given["input_ids"].shape[1], 2))
    return {**given, "bbox": torch.cat([corners, corners + 10], dim=-1)}


def mel(batch: int, step: int) -> Inputs:
    """[batch, 16, 40] float32 as ``input_features``, and token numbers for the decoder."""
    return {"input_features": torch.randn(batch, 16, 40), "decoder_input_ids": tokens(batch, 6 + 2 * step)}


def mel_rows(batch: int, step: int) -> Inputs:
    """[batch, frames, 16] float32 as ``input_features``, and token numbers for the decoder."""
    frames = 24 + 8 * step
    mask = torch.ones(batch, frames, dtype=torch.int64)
    mask[-1, -4:] = 0
    return {"input_features": torch.randn(batch, frames, 16), "attention_mask": mask,
            "decoder_input_ids": tokens(batch, 6 + 2 * step)}  # fmt: skip


def spectrogram(batch: int, step: int) -> Inputs:
    """[batch, 32, 16] float32 as ``input_values``."""
    return {"input_values": torch.randn(batch, 32, 16)}


def series(batch: int, step: int) -> Inputs:
    """[batch, 32, 3] float32 as ``past_values``."""
    return {"past_values": torch.randn(batch, 32, 3)}


def _tiny(kind: Any, given: Mapping[str, Any]) -> Any:
    """A configuration: the sizes of ``_SIZES`` that its class knows, then those given."""
    known = {key: value for key, value in _SIZES.items() if key in kind.__annotations__}
    return kind(**{**known, **given})


def _built(family: str, model: str, given: Mapping[str, Any]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import_torchvision_models()
        module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
        kind = getattr(module, model)
        made: nn.Module = kind(_tiny(kind.config_class, given))
        return made

    return build


def _subject(
    family: str,
    model: str,
    make_inputs: Callable[[int, int], Inputs] = text,
    *,
    second: tuple[int, int] = (3, 1),
    scan: bool = False,
    name: str = "",
    **given: Any,
) -> Subject:
    return Subject(name or family, "transformers", _built(family, model, given), make_inputs, second, scan)


_TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_VISION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
           "image_size": 32, "patch_size": 8}  # fmt: skip
_WAVES = {"conv_dim": (32, 32, 32), "conv_stride": (5, 4, 4), "conv_kernel": (10, 4, 4), "num_feat_extract_layers": 3,
          "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2, "vocab_size": 32}  # fmt: skip
_STAGES = {"embed_dim": 16, "depths": (1, 2), "num_heads": (2, 4), "window_size": 4, "patch_size": 2}
_RESNET = {"model_type": "resnet", "embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1],
           "layer_type": "basic", "out_features": ["stage2"]}  # fmt: skip
_DETR = {"use_timm_backbone": False, "backbone_config": _RESNET, "num_queries": 8, "encoder_ffn_dim": 64,
         "decoder_ffn_dim": 64}  # fmt: skip

ENCODERS = (
    _subject("bert", "BertForSequenceClassification"),
    _subject("roberta", "RobertaForMaskedLM", pad_token_id=1),
    _subject("distilbert", "DistilBertModel"),
    _subject("electra", "ElectraForTokenClassification", embedding_size=16),
    _subject("albert", "AlbertForMaskedLM", embedding_size=16),
    _subject("deberta", "DebertaModel", relative_attention=True, pos_att_type=["c2p", "p2c"]),
    _subject("deberta_v2", "DebertaV2Model", relative_attention=True, pos_att_type=["c2p", "p2c"]),
    _subject("mpnet", "MPNetModel", pad_token_id=1),
    _subject("squeezebert", "SqueezeBertModel", embedding_size=32),
    _subject("mobilebert", "MobileBertModel", embedding_size=16, intra_bottleneck_size=16, true_hidden_size=16),
    _subject("convbert", "ConvBertModel", embedding_size=32),
    _subject("funnel", "FunnelModel", block_sizes=[1, 1], n_head=4, d_head=8, d_inner=64, num_decoder_layers=1),
    _subject("fnet", "FNetModel", text_without_mask, use_tpu_fourier_optimizations=False),
    _subject("nystromformer", "NystromformerModel", long_text, num_landmarks=4, segment_means_seq_len=16,
             second=(3, 0)),
    _subject("longformer", "LongformerModel", attention_window=4),
    _subject("big_bird", "BigBirdModel", attention_type="original_full"),
    _subject("roformer", "RoFormerModel"),
    _subject("modernbert", "ModernBertModel", pad_token_id=0, local_attention=8),
    _subject("esm", "EsmModel", pad_token_id=1, mask_token_id=4, position_embedding_type="rotary"),
    _subject("xlnet", "XLNetModel", d_head=8),
    _subject("splinter", "SplinterModel"),
    _subject("ibert", "IBertModel", pad_token_id=1),
    _subject("canine", "CanineModel", num_hash_functions=2, num_hash_buckets=16, local_transformer_stride=16,
             downsampling_rate=2, upsampling_kernel_size=2),
)  # fmt: skip
DECODERS = (
    _subject("gpt2", "GPT2LMHeadModel"),
    _subject("gpt_neo", "GPTNeoForCausalLM", attention_types=[[["global", "local"], 1]], window_size=4),
    _subject("gpt_neox", "GPTNeoXForCausalLM"),
    _subject("gptj", "GPTJForCausalLM", rotary_dim=4),
    _subject("opt", "OPTForCausalLM", word_embed_proj_dim=32),
    _subject("bloom", "BloomForCausalLM"),
    _subject("mpt", "MptForCausalLM", max_seq_len=64),
    _subject("falcon", "FalconForCausalLM"),
    _subject("codegen", "CodeGenForCausalLM", rotary_dim=4),
    _subject("llama", "LlamaForCausalLM"),
    _subject("mistral", "MistralForCausalLM", sliding_window=8),
    _subject("mixtral", "MixtralForCausalLM", num_local_experts=4),
    _subject("qwen2", "Qwen2ForCausalLM"),
    _subject("qwen3", "Qwen3ForCausalLM"),
    _subject("qwen3_moe", "Qwen3MoeForCausalLM", num_experts=4, moe_intermediate_size=32, num_experts_per_tok=2),
    _subject("phi", "PhiForCausalLM"),
    _subject("phi3", "Phi3ForCausalLM"),
    _subject("gemma", "GemmaForCausalLM"),
    _subject("gemma2", "Gemma2ForCausalLM", sliding_window=8),
    _subject("gemma3", "Gemma3ForCausalLM", sliding_window=8),
    _subject("olmo", "OlmoForCausalLM"),
    _subject("cohere", "CohereForCausalLM"),
    _subject("stablelm", "StableLmForCausalLM"),
    _subject("starcoder2", "Starcoder2ForCausalLM"),
    _subject("xglm", "XGLMForCausalLM"),
    _subject("mamba", "MambaForCausalLM", text_without_mask, scan=True),
    _subject("mamba2", "Mamba2ForCausalLM", text_without_mask, scan=True, num_heads=8, n_groups=2, state_size=16,
             chunk_size=8),
    _subject("rwkv", "RwkvForCausalLM", text_without_mask, scan=True, context_length=32),
    _subject("recurrent_gemma", "RecurrentGemmaForCausalLM", scan=True, num_hidden_layers=3, lru_width=32,
             attention_window_size=8),
)  # fmt: skip
ENCODER_DECODERS = (
    _subject("t5", "T5ForConditionalGeneration", two_texts),
    _subject("bart", "BartForConditionalGeneration", two_texts),
    _subject("mbart", "MBartForConditionalGeneration", two_texts),
    _subject("pegasus", "PegasusForConditionalGeneration", two_texts),
    _subject("marian", "MarianMTModel", two_texts, decoder_start_token_id=0),
    _subject("m2m_100", "M2M100ForConditionalGeneration", two_texts),
    _subject("blenderbot", "BlenderbotForConditionalGeneration", two_texts),
    _subject("led", "LEDForConditionalGeneration", two_texts, attention_window=4, max_encoder_position_embeddings=64,
             max_decoder_position_embeddings=64),
    _subject("longt5", "LongT5ForConditionalGeneration", two_texts, local_radius=4),
    _subject("prophetnet", "ProphetNetForConditionalGeneration", two_texts, num_encoder_layers=2,
             num_decoder_layers=2, num_encoder_attention_heads=4, num_decoder_attention_heads=4, ngram=2),
    _subject("switch_transformers", "SwitchTransformersForConditionalGeneration", two_texts, num_experts=4,
             num_sparse_encoder_layers=1, num_sparse_decoder_layers=1),
)  # fmt: skip
SPEECH = (
    _subject("wav2vec2", "Wav2Vec2ForCTC", waveform, **_WAVES),
    _subject("hubert", "HubertModel", waveform, **_WAVES),
    _subject("wavlm", "WavLMModel", waveform, **_WAVES),
    _subject("unispeech", "UniSpeechModel", waveform, **_WAVES),
    _subject("sew", "SEWModel", waveform, **_WAVES),
    _subject("whisper", "WhisperForConditionalGeneration", mel, num_mel_bins=16, max_source_positions=20,
             decoder_start_token_id=1, second=(3, 0)),
    _subject("speech_to_text", "Speech2TextForConditionalGeneration", mel_rows, input_feat_per_channel=16,
             conv_channels=16, num_conv_layers=2),
    _subject("audio_spectrogram_transformer", "ASTModel", spectrogram, num_mel_bins=16, max_length=32, second=(3, 0)),
    _subject("encodec", "EncodecModel", lambda batch, step: {"input_values": torch.randn(batch, 1, 320 + 320 * step)},
             num_filters=4, hidden_size=16, upsampling_ratios=[4, 2], codebook_size=16, codebook_dim=16),
)  # fmt: skip
VISION = (
    _subject("vit", "ViTForImageClassification", pixels()),
    _subject("deit", "DeiTForImageClassification", pixels()),
    _subject("beit", "BeitModel", pixels(), use_relative_position_bias=True),
    _subject("dinov2", "Dinov2Model", pixels(step=16)),
    _subject("swin", "SwinModel", pixels(step=16), **_STAGES),
    _subject("swinv2", "Swinv2Model", pixels(step=16), **_STAGES),
    _subject("convnext", "ConvNextModel", pixels(step=32), num_stages=2, hidden_sizes=[16, 32], depths=[1, 1]),
    _subject("convnextv2", "ConvNextV2Model", pixels(step=32), num_stages=2, hidden_sizes=[16, 32], depths=[1, 1]),
    _subject("resnet", "ResNetModel", pixels(step=32), embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1]),
    _subject("regnet", "RegNetModel", pixels(step=32), embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1],
             groups_width=8),
    _subject("segformer", "SegformerForSemanticSegmentation", pixels(64, 32), hidden_sizes=[8, 16, 32, 64],
             depths=[1, 1, 1, 1], decoder_hidden_size=16, num_attention_heads=[1, 2, 2, 4]),
    _subject("poolformer", "PoolFormerModel", pixels(64, 32), hidden_sizes=[8, 16, 32, 64], depths=[1, 1, 1, 1]),
    _subject("mobilevit", "MobileViTModel", pixels(64, 32), hidden_sizes=[16, 24, 32],
             neck_hidden_sizes=[8, 8, 16, 16, 24, 32, 32], patch_size=2, image_size=64),
    _subject("mobilenet_v2", "MobileNetV2Model", pixels(64, 32)),
    _subject("levit", "LevitModel", pixels(64), hidden_sizes=[16, 24, 32], num_attention_heads=[2, 2, 2],
             depths=[1, 1, 1], key_dim=[8, 8, 8], drop_path_rate=0, patch_size=16, second=(3, 0), image_size=64,
             name="levit_hf"),
    _subject("cvt", "CvtModel", pixels(64, 32), embed_dim=[8, 16, 24], num_heads=[1, 2, 3], depth=[1, 2, 3]),
    _subject("pvt", "PvtModel", pixels(64), hidden_sizes=[8, 16, 32, 64], depths=[1, 1, 1, 1], image_size=64,
             num_attention_heads=[1, 2, 4, 8]),
    _subject("focalnet", "FocalNetModel", pixels(64, 32), embed_dim=16, depths=[1, 1], focal_levels=[2, 2],
             hidden_sizes=[16, 32], focal_windows=[3, 3], patch_size=4),
    _subject("hiera", "HieraModel", pixels(64), embed_dim=16, image_size=[64, 64], depths=[1, 1], num_heads=[1, 2],
             embed_dim_multiplier=2.0, num_query_pool=1, query_stride=[2, 2], masked_unit_size=[8, 8],
             masked_unit_attention=[True, False], patch_stride=[4, 4], patch_size=[7, 7]),
    _subject("dpt", "DPTForDepthEstimation", pixels(), num_hidden_layers=4,
             backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 16, 16],
             fusion_hidden_size=16, is_hybrid=False),
    _subject("videomae", "VideoMAEModel", video, num_frames=4, tubelet_size=2),
    _subject("timesformer", "TimesformerModel", video, num_frames=4),
    _subject("vivit", "VivitModel", video, num_frames=4, tubelet_size=[2, 8, 8]),
)  # fmt: skip
DETECTION_AND_BOTH = (
    _subject("detr", "DetrForObjectDetection", pixels(64, 32), **_DETR),
    _subject("conditional_detr", "ConditionalDetrForObjectDetection", pixels(64, 32), **_DETR),
    _subject("yolos", "YolosForObjectDetection", pixels(step=16), image_size=[32, 32], num_detection_tokens=5),
    _subject("clip", "CLIPModel", text_and_image, text_config=_TEXT, vision_config=_VISION),
    _subject("siglip", "SiglipModel", text_and_image, text_config=_TEXT, vision_config=_VISION),
    _subject("clipseg", "CLIPSegModel", text_and_image, text_config=_TEXT, vision_config=_VISION),
    _subject("blip", "BlipForImageTextRetrieval", text_and_image, text_config=_TEXT, vision_config=_VISION),
    _subject("vilt", "ViltModel", text_and_image),
    _subject("layoutlm", "LayoutLMModel", boxed_text),
    _subject("groupvit", "GroupViTModel", text_and_image, text_config=_TEXT,
             vision_config={**_VISION, "depths": [1, 1, 0], "num_group_tokens": [8, 4, 0],
                            "num_output_groups": [8, 4, 0]}),
    _subject("owlvit", "OwlViTForObjectDetection", text_and_image, projection_dim=32, text_config=_TEXT,
             vision_config=_VISION),
    _subject("patchtst", "PatchTSTForPrediction", series, num_input_channels=3, context_length=32, patch_length=8,
             patch_stride=8, prediction_length=4),
)  # fmt: skip
SUBJECTS = (*ENCODERS, *DECODERS, *ENCODER_DECODERS, *SPEECH, *VISION, *DETECTION_AND_BOTH)
