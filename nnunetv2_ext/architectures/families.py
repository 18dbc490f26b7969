"""The networks that this package knows by name: what tells their weights, where their heads are, what trains them.

A further network is an entry here; `nnunetv2_ext.architectures.planned` builds it from plans.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from nnunetv2_ext.architectures.stunet_sizes import STUNET_SIZES

_OURS = "nnunetv2_ext.architectures."
_STOCK = "dynamic_network_architectures.architectures.unet."

#: Kind of dataset -> the trainer of any network that the plans name.
_GENERIC = {
    "plain": "nnUNetTrainer",
    "finetuning": "FineTuneTrainer",
    "collection": "MultiTalentTrainer",
    "tree": "LabelTreeTrainer_unet",
}


@dataclass(frozen=True)
class NetworkFamily:
    """A network.

    Attributes:
        key: The word for it.
        class_path: Dotted path of its class.
        trainers: Kind of dataset (``plain``, ``collection``, ``tree``) -> what trains it; ``finetuning`` on plain
            datasets, ``regions`` on those with sigmoid outputs where that is another one.
        size: Of STU-Net: ``"S"``, ``"B"``, ``"L"`` or ``"H"``.
        signature: Names of weights that together no other network has.
        extra: Extra of this package that it needs.
        heads: What the names of its segmentation heads begin with.
        outputs: A tensor of the heads, and which of its axes is as long as there are outputs.
        has_rows: Whether each output has its own row in every tensor of the heads.
        encoder: Pattern of the beginnings of its encoder's names.
        stages: Patterns of the beginnings of its stages' names, from the heads down; where a pattern has a group, the
            stage of the larger number is nearer to the heads. What none of them fits is the farthest from the heads.
    """

    key: str
    class_path: str
    trainers: Mapping[str, str] = field(default_factory=lambda: _GENERIC)
    size: str | None = None
    signature: frozenset[str] = frozenset()
    extra: str | None = None
    heads: str = "decoder.seg_layers."
    outputs: tuple[str, int] = ("decoder.seg_layers.0.weight", 0)
    has_rows: bool = True
    encoder: str = r"encoder\."
    stages: tuple[str, ...] = (
        r"decoder\.(?:stages|transpconvs|upsample_layers)\.(\d+)\.",
        r"encoder\.stages\.(\d+)\.",
        r"encoder\.",
    )


def _trainers(suffix: str, **others: str) -> dict[str, str]:
    names = {"finetuning": "FineTuneTrainer", "collection": "MultiTalentTrainer", "tree": "LabelTreeTrainer"}
    return {**_GENERIC, **{kind: f"{name}_{suffix}" for kind, name in names.items()}, **others}


def _stunet(letter: str, name: str) -> NetworkFamily:
    own = f"STUNetTrainer_{name}"
    return NetworkFamily(
        f"stunet_{name}",
        f"{_OURS}stunet.STUNet",
        _trainers(f"stunet_{name}", plain=own, finetuning=f"{own}_ft"),
        size=letter,
        signature=frozenset({"encoder.stages.0.0.conv1.weight", "decoder.upsample_layers.0.conv.weight"}),
    )


#: Of networks with a head for each source; they are fine-tuned as networks of one head.
_MULTI_HEAD = {**_GENERIC, "collection": "MultiTalentV2Trainer"}
_MONAI = {"finetuning": "SegResNetTrainer", "regions": "FineTuneTrainer"}

_SEGRESNET_DS = (r"up_layers\.(\d+)\.", r"encoder\.layers\.(\d+)\.", r"encoder\.")

FAMILIES: tuple[NetworkFamily, ...] = (
    *(_stunet(letter, size.name) for letter, size in STUNET_SIZES.items()),
    NetworkFamily(
        "resenc",
        f"{_OURS}resenc.StridedSkipResidualEncoderUNet",
        _trainers("resenc"),
        # The stock residual encoder pools before its projection, which then has the number 1.
        signature=frozenset({"encoder.stages.1.blocks.0.skip.0.conv.weight", "decoder.transpconvs.0.weight"}),
    ),
    NetworkFamily(
        "unet",
        f"{_STOCK}PlainConvUNet",
        _trainers("unet"),
        signature=frozenset({"encoder.stages.0.0.convs.0.conv.weight", "decoder.transpconvs.0.weight"}),
    ),
    NetworkFamily("residual_encoder", f"{_STOCK}ResidualEncoderUNet"),
    NetworkFamily("multi_head_unet", f"{_OURS}multi_head.MultiHeadPlainConvUNet", _MULTI_HEAD),
    NetworkFamily("multi_head_residual_encoder", f"{_OURS}multi_head.MultiHeadResidualEncoderUNet", _MULTI_HEAD),
    NetworkFamily(
        "swinunetr",
        f"{_OURS}swinunetr.SwinUNETR",
        _trainers("swinunetr", tree=_GENERIC["tree"]),
        signature=frozenset({"swinViT.patch_embed.proj.weight", "decoder.seg_layers.0.weight"}),
        extra="monai",
        encoder=r"swinViT\.|encoder\d+\.",
        stages=(
            *(rf"decoder{level}\." for level in (1, 2, 3, 4, 5)),
            r"encoder10\.|swinViT\.layers4",
            *(rf"encoder{level + 1}\.|swinViT\.layers{level}" for level in (3, 2, 1)),
            r"encoder1\.|swinViT\.",
        ),
    ),
    NetworkFamily(
        "segresnet",
        f"{_OURS}monai_networks.SegResNet",
        {**_GENERIC, **_MONAI},
        extra="monai",
        encoder=r"convInit\.|down_layers\.",
        stages=(r"conv_final\.", r"(?:up_layers|up_samples)\.(\d+)\.", r"down_layers\.(\d+)\.", r"convInit\."),
    ),
    NetworkFamily(
        "mednext",
        f"{_OURS}mednext.MedNeXt",
        _trainers("mednext", plain="MedNeXtTrainer"),
        signature=frozenset({"enc_stages.0.0.conv1.weight", "decoder.seg_layers.0.weight"}),
        extra="monai",
        encoder=r"(?:stem|enc_stages|down_blocks|bottleneck)\.",
        stages=(
            r"(?:up_blocks|dec_stages)\.(\d+)\.",
            r"bottleneck\.",
            r"(?:enc_stages|down_blocks)\.(\d+)\.",
            r"stem\.",
        ),
    ),
    NetworkFamily("segresnet_ds", f"{_OURS}segresnet_ds.SegResNetDS", extra="monai", stages=_SEGRESNET_DS),
    NetworkFamily(
        "vista3d",
        f"{_OURS}segresnet_ds.VISTA3D",
        extra="monai",
        stages=(r"(?:image_post_mapping|embedding)\.", *_SEGRESNET_DS),
    ),
    NetworkFamily(
        "primus",
        f"{_OURS}primus.Primus",
        {**_GENERIC, "plain": "PrimusTrainer", "finetuning": "PrimusTrainer"},
        # Its whole decoder, of three steps for the published tokens of 8 voxels, depends on the number of classes.
        heads="up_projection.",
        outputs=("up_projection.decode.2.weight", 1),
        has_rows=False,
        encoder=r"(?:eva|down_projection)\.|mask_token",
        stages=(r"eva\.norm\.", r"eva\.blocks\.(\d+)\.", r"eva\.|down_projection\.|mask_token"),
    ),
    NetworkFamily(
        "monai_unet",
        f"{_OURS}monai_networks.UNet",
        {**_GENERIC, **_MONAI, "finetuning": "MonaiUNetTrainer"},
        extra="monai",
        heads="model.2.",
        outputs=("model.2.0.conv.weight", 1),
        # Its last block is a residual unit over the classes themselves.
        has_rows=False,
        # Each level holds the next one as ``1.submodule``, between its way down (``0``) and its way up (``2``).
        encoder=r"model\.(?:1\.submodule\.)*(?!1\.|2\.)",
        stages=(
            *(rf"model\.(?:1\.submodule\.){{{level}}}2\." for level in range(1, 8)),
            *(rf"model\.(?:1\.submodule\.){{{level}}}(?!1\.|2\.)" for level in range(8, -1, -1)),
        ),
    ),
)
_OTHER = NetworkFamily("plans", "")


def family_of(class_path: str, size: str | None = None) -> NetworkFamily:
    """The family of a network; for one that nobody knows what holds for every network that plans name.

    Args:
        class_path: Dotted path of its class.
        size: Of an STU-Net; None where it is not a published one.
    """
    known = next((family for family in FAMILIES if (family.class_path, family.size) == (class_path, size)), None)
    return known or replace(_OTHER, class_path=class_path)


def recognise(names: Collection[str]) -> NetworkFamily | None:
    """The family to which weights with these names belong; of the sizes of an STU-Net, the first."""
    return next((family for family in FAMILIES if family.signature and family.signature <= set(names)), None)
