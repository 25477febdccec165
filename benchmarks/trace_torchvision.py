"""Torchvision's networks with random weights: classification, segmentation, video, optical flow, detection."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from networks import import_torchvision_models
from torch import Tensor, nn
from trace_subject import Inputs, Subject, images

_kept_libraries: list[torch.library.Library] = []


def _box_overlaps(boxes: Tensor, box: Tensor) -> Tensor:
    """Intersection over union of [N, 4] boxes with one, [N] float32."""
    corner = torch.maximum(boxes[:, :2], box[:2])
    sides = (torch.minimum(boxes[:, 2:], box[2:]) - corner).clamp(min=0)
    shared = sides.prod(dim=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1) + (box[2:] - box[:2]).prod()
    return shared / (areas - shared)


def _suppress(dets: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Non-maximum suppression: indices of the boxes kept, best first, int64."""
    left, kept = scores.argsort(descending=True), []
    while left.numel():
        kept.append(left[0])
        left = left[1:][_box_overlaps(dets[left[1:]], dets[left[0]]) <= iou_threshold]
    return torch.stack(kept) if kept else left


def torchvision_models() -> Any:
    """``torchvision.models``, with a Python kernel for ``nms`` where the compiled one does not fit this torch."""
    models = import_torchvision_models()
    if not _kept_libraries and not torch._C._dispatch_has_kernel_for_dispatch_key("torchvision::nms", "CPU"):
        library = torch.library.Library("torchvision", "IMPL")
        library.impl("nms", _suppress, "CPU")
        _kept_libraries.append(library)
        importlib.import_module("torchvision.extension")._has_ops = lambda: True
        importlib.import_module("torchvision.ops.roi_align")._has_ops = lambda: False
    return models


def _built(name: str, family: str = "", **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        models = torchvision_models()
        place = getattr(models, family) if family else models
        made: nn.Module = getattr(place, name)(weights=None, **options)
        return made

    return build


def clips(size: int) -> Callable[[int, int], Inputs]:
    """Makes [batch, 3, 16, size, size] float32 video."""
    return lambda batch, step: (torch.randn(batch, 3, 16, size, size),)


def two_frames(batch: int, step: int) -> Inputs:
    """Two images [batch, 3, 128, 128] float32 for optical flow, refined three times instead of twelve."""
    size = 128 + 32 * step
    frames = {name: torch.randn(batch, 3, size, size) for name in ("image1", "image2")}
    return {**frames, "num_flow_updates": 3}


def listed_images(batch: int, step: int) -> Inputs:
    """A list of images [3, H, W] in 0..1, as detectors take them."""
    return ([torch.rand(3, 96 + 16 * step, 128) for _ in range(batch)],)


CLASSIFICATION = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "maxvit_t",
    "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnet18", "resnet50",
    "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vgg11_bn",
    "wide_resnet50_2",
)  # fmt: skip
_OPTIONS: dict[str, dict[str, Any]] = {"googlenet": {"init_weights": False}, "maxvit_t": {"input_size": (224, 224)}}
_FIXED_SIZE = {"maxvit_t"}
SEGMENTATION = ("fcn_resnet50", "deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large")
VIDEO = {"r3d_18": 56, "mc3_18": 56, "r2plus1d_18": 56, "s3d": 224, "swin3d_t": 64, "mvit_v1_b": 224, "mvit_v2_s": 224}
FLOW = ("raft_small", "raft_large")
DETECTION = (
    "fasterrcnn_mobilenet_v3_large_320_fpn", "fasterrcnn_resnet50_fpn", "fcos_resnet50_fpn",
    "keypointrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn", "retinanet_resnet50_fpn", "ssd300_vgg16",
    "ssdlite320_mobilenet_v3_large",
)  # fmt: skip
_DETECTOR = {"weights_backbone": None, "num_classes": 5}
_RESIZED = {"min_size": 96, "max_size": 128}


_FEW_PROPOSALS = {"rpn_pre_nms_top_n_test": 100, "rpn_post_nms_top_n_test": 50, "box_detections_per_img": 20}
# Their heads take one image for each detection: eight convolutions of 512 channels, or four of 256.
_FEW_DETECTIONS = {"rpn_pre_nms_top_n_test": 20, "rpn_post_nms_top_n_test": 8, "box_detections_per_img": 2}
_FEW_CANDIDATES = {"topk_candidates": 50, "detections_per_img": 20}


def _detector(name: str) -> Subject:
    proposals = _FEW_DETECTIONS if name.startswith(("mask", "keypoint")) else _FEW_PROPOSALS
    few = proposals if "rcnn" in name else _FEW_CANDIDATES
    options = {**_DETECTOR, **few, **({} if name.startswith("ssd") else _RESIZED)}
    return Subject(name, "torchvision", _built(name, "detection", **options), listed_images, (2, 1))


SUBJECTS = (
    *(
        Subject(name, "torchvision", _built(name, **_OPTIONS.get(name, {})),
                images(224 if name in _FIXED_SIZE else 64, 32),
                (3, 0 if name in _FIXED_SIZE else 1))
        for name in CLASSIFICATION
    ),
    Subject("inception_v3", "torchvision", _built("inception_v3", init_weights=False), images(96, 32)),
    Subject("vit_b_16", "torchvision", _built("vit_b_16", image_size=64), images(64, 0)),
    *(
        Subject(name, "torchvision", _built(name, "segmentation", weights_backbone=None), images(64, 32))
        for name in SEGMENTATION
    ),
    *(
        Subject(name, "torchvision", _built(name, "video"), clips(size), (2, 0), first=(1, 0))
        for name, size in VIDEO.items()
    ),
    *(Subject(name, "torchvision", _built(name, "optical_flow"), two_frames, (2, 1), first=(1, 0)) for name in FLOW),
    *(_detector(name) for name in DETECTION),
)  # fmt: skip
