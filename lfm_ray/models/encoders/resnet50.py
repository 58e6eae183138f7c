"""ResNet-50."""

from __future__ import annotations

from lfm_ray.models.encoders.resnet import resnet

ENCODER = resnet("bottleneck", [3, 4, 6, 3])
