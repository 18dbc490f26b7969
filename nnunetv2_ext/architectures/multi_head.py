"""nnU-Net's U-Nets with a softmax head for each of several sources, and a stem for each where there are several.

The network of MultiTalent for nnU-Net v2 (https://github.com/MIC-DKFZ/MultiTalent, branch ``public_MT``): encoder and
decoder are shared, so that datasets of other classes, protocols and modalities train one backbone. Names of weights are
the published ones, ``decoder.seg_layers.<head>.<level>`` and ``encoder.stem.<head>``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from dynamic_network_architectures.architectures import unet
from dynamic_network_architectures.building_blocks.simple_conv_blocks import StackedConvBlocks
from jaxtyping import Float, Int
from torch import Tensor, nn

from nnunetv2_ext.architectures.segmentation_heads import SegmentationOutput, decode, shallow_copy
from nnunetv2_ext.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from nnunetv2_ext.utilities.errors import UserError

#: What heads are called: IDs of datasets, with the number of a part where a dataset's classes have several heads.
HEAD = r"\d{3,}(?:_\d+)?"


def heads_called(wanted: str | int, sources: Mapping[str, str]) -> list[str]:
    """The heads that are meant by the name of a source, of a head, or the ID of a dataset that may have several.

    Args:
        wanted: As given.
        sources: Name of each source to its head.
    """
    name = str(wanted)
    if name in sources:
        return [sources[name]]
    name = f"{int(name):03d}" if re.fullmatch(r"[0-9]{1,9}", name) else name
    return [head for head in sources.values() if name in (head, head.partition("_")[0])]


class MultiHead(nn.Module):
    """Adds heads and stems to one of nnU-Net's U-Nets, whose arguments it shares.

    Args:
        input_channels: Image channels of the stem that all heads share; not used where there are several.
        num_classes: Not used; the heads say how many outputs they have.
        heads: Name, which `HEAD` describes, to outputs, background included.
        stems: Name of each head to the image channels of its own stem; None for one stem.
        **arguments: As for nnU-Net's class.

    Attributes:
        heads: As given.
        stems: As given.
        single_class: The class of a network of one head.
    """

    single_class: ClassVar[type[nn.Module]]

    # Typed by nnU-Net's classes, which carry no annotations.
    encoder: Any
    decoder: Any

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        heads: Mapping[str, int],
        stems: Mapping[str, int] | None = None,
        **arguments: Any,
    ) -> None:
        if not heads or (stems is not None and set(stems) != set(heads)):
            raise ValueError(f"Expected heads, and a stem for each, but got {list(heads)} and {list(stems or ())}.")
        super().__init__(input_channels=input_channels, num_classes=1, **arguments)
        self.heads = dict(heads)
        self.stems = None if stems is None else {name: stems[name] for name in heads}
        self.decoder.seg_layers = nn.ModuleDict(
            {
                name: nn.ModuleList(type(layer)(layer.in_channels, outputs, 1) for layer in self.decoder.seg_layers)
                for name, outputs in heads.items()
            }
        )
        if self.stems is not None:
            self._separate_stems(self.stems)

    def _separate_stems(self, stems: Mapping[str, int]) -> None:
        encoder = self.encoder
        has_stem = hasattr(encoder, "stem")
        first = encoder.stem if has_stem else encoder.stages[0][-1]
        encoder.stem = nn.ModuleDict(
            {
                name: StackedConvBlocks(
                    1,
                    encoder.conv_op,
                    channels,
                    first.output_channels,
                    encoder.kernel_sizes[0],
                    1,
                    encoder.conv_bias,
                    encoder.norm_op,
                    encoder.norm_op_kwargs,
                    encoder.dropout_op,
                    encoder.dropout_op_kwargs,
                    encoder.nonlin,
                    encoder.nonlin_kwargs,
                )
                for name, channels in stems.items()
            }
        )
        if not has_stem:
            # nnU-Net's plain encoder has no stem but the first convolution of its first stage.
            first.convs = nn.Sequential(*list(first.convs)[1:])

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """Leaves PyTorch's initialisation, as the published code does."""

    def forward(
        self, image: Float[Tensor, "batch channels *spatial"], sources: Int[Tensor, " batch"] | None = None
    ) -> SegmentationOutput:
        """Raw logits.

        Args:
            image: ``(batch, channels, z, y, x)``; of a stem with fewer channels the first ones count.
            sources: Which head each image is for, as its place in `heads`.

        Returns:
            ``(1, outputs, z, y, x)`` with the outputs of the images' heads one after the other; with deep supervision a
            list of them, full resolution first. Every parameter is part of the graph: those of other heads have a
            gradient of zero.

        Raises:
            UserError: Nobody says which heads, as nnU-Net's own commands.
        """
        if sources is None:
            raise UserError(
                f"Expected the choice of one of the heads {', '.join(self.heads)} for every image, which nnU-Net's own "
                "commands do not know; predict with nnUNetv2_ext_predict."
            )
        features = decode(self.decoder, self._skips(image, sources))
        outputs = self._outputs(features, sources)
        return outputs if self.decoder.deep_supervision else outputs[0]

    def single(self, *names: str) -> nn.Module:
        """The network of some heads that share a stem: nnU-Net's own class, with its names, and with these weights.

        The outputs of several heads follow each other.

        Raises:
            ValueError: The heads have stems of their own.
        """
        if self.stems is not None and len(names) > 1:
            raise ValueError(f"Expected heads that share a stem, but got {', '.join(names)}.")
        network = shallow_copy(self, self.single_class)
        network.encoder = shallow_copy(self.encoder)
        network.decoder = shallow_copy(self.decoder)
        network.decoder.encoder = network.encoder
        if self.stems is not None:
            self._give_stem(network.encoder, self.encoder.stem[names[0]])
        levels = zip(*(self.decoder.seg_layers[name] for name in names), strict=True)
        network.decoder.seg_layers = nn.ModuleList(
            level[0] if len(level) == 1 else SideBySide(level) for level in levels
        )
        return network

    def _give_stem(self, encoder: Any, stem: Any) -> None:
        if issubclass(self.single_class, ResidualEncoderUNet):
            encoder.stem = stem
            return
        del encoder.stem
        first, *stages = encoder.stages
        blocks = shallow_copy(first[-1])
        blocks.convs = nn.Sequential(*stem.convs, *blocks.convs)
        encoder.stages = nn.Sequential(nn.Sequential(*first[:-1], blocks), *stages)

    def _skips(self, image: Tensor, sources: Tensor) -> list[Tensor]:
        if self.stems is None:
            skips: list[Tensor] = self.encoder(image)
            return skips
        features = _run_stems(image, self.encoder.stem, sources)
        skips = []
        for stage in self.encoder.stages:
            features = stage(features)
            skips.append(features)
        return skips

    @torch.compiler.disable
    def _outputs(self, features: Sequence[Tensor], sources: Tensor) -> list[Tensor]:
        heads = list(self.decoder.seg_layers.values())
        chosen = sources.tolist()
        outputs = [
            torch.cat([heads[source][-1 - level](feature[i : i + 1]) for i, source in enumerate(chosen)], 1)
            for level, feature in enumerate(reversed(features))
        ]
        # Those that no image needs, so that `DistributedDataParallel` finds no parameter without a gradient.
        outputs[0] = outputs[0] + sum((parameter * 0).sum() for parameter in self._unused(set(chosen)))
        return outputs

    def _unused(self, chosen: set[int]) -> Iterator[nn.Parameter]:
        parts = [self.decoder.seg_layers] + ([] if self.stems is None else [self.encoder.stem])
        for part in parts:
            for place, module in enumerate(part.values()):
                if place not in chosen:
                    yield from module.parameters()


class MultiHeadPlainConvUNet(MultiHead, unet.PlainConvUNet):
    """nnU-Net's default U-Net with several heads."""

    single_class = PlainConvUNet


class MultiHeadResidualEncoderUNet(MultiHead, unet.ResidualEncoderUNet):
    """nnU-Net's residual-encoder U-Net (ResEnc M, L, XL) with several heads."""

    single_class = ResidualEncoderUNet


def with_heads(class_path: str) -> str:
    """The dotted path of the network with several heads that takes the arguments of one of nnU-Net's.

    Raises:
        UserError: There is none.
    """
    for network in (MultiHeadPlainConvUNet, MultiHeadResidualEncoderUNet):
        if class_path.rpartition(".")[2] in (network.__name__, network.single_class.__name__):
            return f"{network.__module__}.{network.__name__}"
    raise UserError(
        "Expected plans for nnU-Net's PlainConvUNet or ResidualEncoderUNet, which can have a head per source, but "
        f"these are for {class_path}; train with other plans (-p)."
    )


class SideBySide(nn.ModuleList):
    """Heads of the same features. Each is evaluated alone, so that its logits are those of its own network."""

    def forward(self, features: Float[Tensor, "batch channels *spatial"]) -> Float[Tensor, "batch outputs *spatial"]:
        """The outputs of all heads, one after the other."""
        return torch.cat([head(features) for head in self], 1)


@torch.compiler.disable
def _run_stems(image: Tensor, stems: nn.ModuleDict, sources: Tensor) -> Tensor:
    each: list[Any] = list(stems.values())
    channels = [next(stem.parameters()).shape[1] for stem in each]
    return torch.cat([each[source](image[i : i + 1, : channels[source]]) for i, source in enumerate(sources.tolist())])
