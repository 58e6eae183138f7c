"""ResNets (He et al., CVPR 2016) for images, video frames and spectrograms.

They use BatchNorm, so in training a sample's embedding depends on its batch: each worker, and each
micro-batch of `data.micro_batch_size`, is normalised with its own statistics, as usual in
data-parallel training. On several GPUs the statistics are taken over all of them (SyncBatchNorm) if
`lfm_ray.runtime.compute.synchronised` says so. The frames of a video count as samples.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from lfm_ray.datasets.shards import ModalityCard
from lfm_ray.errors import UserError
from lfm_ray.models.encoders.base import Encoder, EncoderSettings
from lfm_ray.models.encoders.inputs import Pixels, VideoEncoder
from lfm_ray.models.encoders.pretrained import load

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def resnet(layer_type: str, depths: list[int]) -> Encoder:
    """The ResNet with this type of block, `basic` or `bottleneck`, and so many of them in each stage.

    Of a video it is the mean over the frames.
    """

    def build(card: ModalityCard, settings: EncoderSettings, embedding_size: int) -> nn.Module:
        image = ResNetEncoder(layer_type, depths, card, settings, embedding_size)
        return VideoEncoder(image) if card.kind == "video" else image

    return Encoder(build, ("audio", "image", "video"), ("pretrained", "width"), settings_class=ResNetSettings)


class ResNetSettings(EncoderSettings):
    """Settings of a ResNet."""

    project: bool = Field(
        True, description="a linear layer after the mean over space; false: that mean is the embedding (official code)"
    )

    inputs: Literal["card", "fixed"] = Field(
        "card",
        description="card: standardised with the training split's mean and deviation; fixed: images as in ImageNet,"
        " spectrograms as they are (official code); pretrained weights always take images as in their training",
    )

    @model_validator(mode="after")
    def _something_to_train(self) -> Self:
        if self.frozen and not self.project:
            raise ValueError("a frozen encoder without the layer `project` has nothing to train")
        return self


class ResNetEncoder(nn.Module):
    """(B, C, H, W) -> ResNet -> mean over space -> Linear -> (B, d).

    Convolutions begin with kaiming normal weights (fan out), BatchNorm with 1 and 0.

    With random weights the first convolution takes the card's number of channels. Pretrained weights
    take three; for one channel the kernels are summed over the input channels, so that a grey image
    gives what three equal channels would give.

    Raises:
        UserError: the pretrained model cannot be loaded or is another ResNet.
    """

    def __init__(
        self, layer_type: str, depths: list[int], card: ModalityCard, settings: EncoderSettings, embedding_size: int
    ) -> None:
        super().__init__()
        from transformers import ResNetConfig, ResNetModel

        channels, width = card.shape[-3], settings.width or 64
        if settings.pretrained:
            self.body = load(ResNetModel, settings.pretrained, ("resnet",))
            config = self.body.config
            if (config.layer_type, config.depths) != (layer_type, depths):
                raise UserError(
                    f"pretrained: {settings.pretrained} is a ResNet of depths {config.depths} with {config.layer_type}"
                    f" blocks, not {settings.name}"
                )
            _take_channels(self.body, channels, settings.pretrained)
        else:
            expansion = 4 if layer_type == "bottleneck" else 1
            self.body = ResNetModel(
                ResNetConfig(
                    num_channels=channels,
                    embedding_size=width,
                    hidden_sizes=[expansion * width * 2**stage for stage in range(4)],
                    depths=depths,
                    layer_type=layer_type,
                )
            )
        own = settings if isinstance(settings, ResNetSettings) else ResNetSettings()
        self.pixels = Pixels(card, settings, IMAGENET_MEAN, IMAGENET_STD, own.inputs == "fixed")
        size, project = self.body.config.hidden_sizes[-1], own.project
        if not project and size != embedding_size:
            raise UserError(f"project: without it an embedding has {size} entries; set model.embedding_size={size}")
        self.project = nn.Linear(size, embedding_size) if project else nn.Identity()

    def forward(self, value: Tensor) -> Tensor:
        """value: (B, C, H, W) of any real dtype; standardised here."""
        value = self.pixels(value, next(self.body.parameters()).dtype)
        return self.project(self.body(value).pooler_output.flatten(1))

    @property
    def last_map(self) -> nn.Module:
        """The layer whose output is the last feature map, (B, K, h, w)."""
        return self.body.encoder.stages[-1]


def _take_channels(body: Any, channels: int, source: str) -> None:
    """Makes the first convolution take one channel by summing its kernels over the input channels."""
    embedder = body.embedder
    if channels == embedder.num_channels:
        return
    if channels != 1:
        raise UserError(f"pretrained: {source} takes {embedder.num_channels} channels or 1, and there are {channels}")
    convolution = embedder.embedder.convolution
    convolution.weight = nn.Parameter(convolution.weight.detach().sum(dim=1, keepdim=True))
    convolution.in_channels = embedder.num_channels = body.config.num_channels = 1
