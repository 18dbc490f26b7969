"""A network as a plans file describes it: dotted class path and arguments."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from nnunetv2_ext.architectures.families import FAMILIES, NetworkFamily, family_of
from nnunetv2_ext.architectures.stunet_sizes import STUNET_SIZES
from nnunetv2_ext.utilities.class_paths import resolve_class
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.extras import require_extra

#: Classes that moved since the plans that name them were written (nnU-Net finds them by searching).
_MOVED = {
    "dynamic_network_architectures.architectures.residual_unet.ResidualEncoderUNet": (
        "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    )
}

#: Arguments that some of nnU-Net's trainers import whether or not the plans list them.
_OPERATIONS = {
    "conv_op": nn.modules.conv._ConvNd,
    "norm_op": nn.modules.batchnorm._NormBase,
    "dropout_op": nn.modules.dropout._DropoutNd,
    "nonlin": nn.Module,
}

#: Three times the largest published network, STU-Net H.
_LARGEST_NETWORK_GIB = 16
_MOST_TENSORS = 20_000

#: Classes that cannot be imported without MONAI.
_NEED_MONAI = ("monai.", *(family.class_path for family in FAMILIES if family.extra == "monai"))


@dataclass(frozen=True)
class Architecture:
    """Which class to build a network from, and with what.

    Attributes:
        class_path: Dotted path of an ``nn.Module``; only packages of networks are admitted.
        arguments: Keyword arguments without input channels, classes and deep supervision; plain JSON values.
        import_arguments: Names of the arguments whose value is itself a dotted class path (``conv_op``, ``nonlin``).
    """

    class_path: str
    arguments: Mapping[str, Any]
    import_arguments: Sequence[str] = field(default=())

    @classmethod
    def from_plans(cls, configuration: Mapping[str, Any]) -> Architecture:
        """Reads the ``architecture`` entry of a configuration of a plans file.

        Raises:
            UserError: The entry is missing or names a class outside the packages of networks.
        """
        entry = configuration.get("architecture")
        if not isinstance(entry, Mapping) or not isinstance(entry.get("network_class_name"), str):
            raise UserError(
                "Expected plans that name their network under 'architecture', but found none; plan the dataset anew."
            )
        architecture = cls(
            entry["network_class_name"], dict(entry["arch_kwargs"]), tuple(entry.get("_kw_requires_import", ()))
        )
        architecture.check()
        return architecture

    def to_plans(self) -> dict[str, Any]:
        """The ``architecture`` entry of a configuration of a plans file."""
        return {
            "network_class_name": self.class_path,
            "arch_kwargs": dict(self.arguments),
            "_kw_requires_import": list(self.import_arguments),
        }

    def check(self) -> None:
        """Refuses plans that name anything but networks and their parts; see `resolve_class`.

        Raises:
            UserError: A path leads elsewhere.
        """
        named = {name: self.arguments.get(name) for name in (*self.import_arguments, *_OPERATIONS)}
        for name, path in {"network_class_name": self.class_path, **named}.items():
            kind = _OPERATIONS.get(name)
            # Without MONAI nothing can be built from its networks, but plans for them can be made.
            is_out_of_reach = kind is None and str(path).startswith(_NEED_MONAI) and find_spec("monai") is None
            if path is None or is_out_of_reach:
                continue
            found = _locate(path)
            # Containers and wrappers are modules as well, but no layers.
            is_layer = re.match(r"torch\.nn\.modules\.(?!module$|container$)", found.__module__)
            if kind is not None and not (is_layer and issubclass(found, kind)):
                raise UserError(f"Expected a layer of PyTorch as {name} in the plans, but found {path!r:.200}.")

    def require_libraries(self) -> None:
        """Says what to install for the network where that is missing, without importing it."""
        if self.class_path.startswith(_NEED_MONAI):
            require_extra("monai", f"The network {self.class_path.rpartition('.')[2]}")

    def build(self, input_channels: int, num_classes: int, deep_supervision: bool) -> nn.Module:
        """Builds the network with PyTorch's default initialisation.

        Raises:
            UserError: A class does not exist or is not a network, or the arguments do not fit it.
        """
        self.check()
        self.require_libraries()
        arguments = {
            name: _locate(value) if name in self.import_arguments and value is not None else value
            for name, value in self.arguments.items()
        }
        arguments["deep_supervision"] = deep_supervision
        with building(self.class_path):
            return _locate(self.class_path)(input_channels=input_channels, num_classes=num_classes, **arguments)

    @property
    def dimensions(self) -> int:
        """2 or 3; 0 where the arguments do not tell."""
        strides = self.arguments.get("strides")
        if strides and isinstance(strides[0], Sequence):
            return len(strides[0])
        conv_op = str(self.arguments.get("conv_op", ""))
        if conv_op.endswith(("2d", "3d")):
            return int(conv_op[-2])
        return int(self.arguments.get("spatial_dims", self.arguments.get("dimensions", 0)))

    @property
    def family(self) -> NetworkFamily:
        """What is known of networks of this class and size."""
        return family_of(_MOVED.get(self.class_path, self.class_path), self.stunet_size)

    @property
    def stunet_size(self) -> str | None:
        """``"S"``, ``"B"``, ``"L"`` or ``"H"`` for an STU-Net of published size, otherwise None."""
        if self.class_path != FAMILIES[0].class_path:
            return None
        features = tuple(self.arguments["features_per_stage"])
        blocks = self.arguments["n_blocks_per_stage"]
        blocks = (blocks,) * len(features) if isinstance(blocks, int) else tuple(blocks)
        for letter, size in STUNET_SIZES.items():
            if (features, blocks) == (size.features_per_stage, size.n_blocks_per_stage):
                return letter
        return None

    def __str__(self) -> str:
        """For example ``3D STU-Net B (features 32..512)``."""
        name = self.class_path.rpartition(".")[2].replace("STUNet", "STU-Net")
        if self.stunet_size:
            name += f" {self.stunet_size}"
        return describe(name, self.dimensions, self.arguments.get("features_per_stage"))


def describe(name: str, dimensions: int, features: Any) -> str:
    """One form for networks in messages: dimensions, name, smallest and largest number of features."""
    text = f"{dimensions}D {name}" if dimensions else name
    return f"{text} (features {min(features)}..{max(features)})" if isinstance(features, Sequence) else text


@contextmanager
def building(name: str) -> Iterator[None]:
    """Surrounds the construction of a network from plans, whose arguments may be anything.

    Raises:
        UserError: The arguments do not fit the network, or make it larger than any network.
    """
    try:
        with _Budget():
            yield
    except UserError:
        raise
    except Exception as error:  # constructors raise whatever comes of numbers that nobody expected
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"The arguments in the plans do not fit {name} ({type(error).__name__}: {reason}); give the plans that it "
            "was trained with."
        ) from error


class _Budget(TorchFunctionMode):
    """Counts new parameters and their memory before they are filled, while it costs nothing yet."""

    _tensors = 0
    _used = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.empty, torch.zeros, torch.ones):
            self._tensors += 1
            self._used += result.nbytes
            if self._tensors > _MOST_TENSORS or self._used > _LARGEST_NETWORK_GIB << 30:
                raise UserError(
                    f"Expected plans of a network of at most {_MOST_TENSORS} tensors and {_LARGEST_NETWORK_GIB} GiB, "
                    "but theirs is larger; correct the numbers of features, stages and blocks."
                )
        return result


def _locate(path: Any) -> Any:
    return resolve_class(_MOVED.get(path, path) if isinstance(path, str) else path, nn.Module)
