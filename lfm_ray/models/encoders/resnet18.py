"""ResNet-18."""

from __future__ import annotations

from lfm_ray.models.encoders.resnet import resnet

ENCODER = resnet("basic", [2, 2, 2, 2])
