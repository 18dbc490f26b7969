"""Predicts as a MONAI bundle does: its transforms, its windows, its way back to the image.

Transforms and window weights are MONAI's own (extra ``monai``). A bundle that decides before it goes back to the image
(``nearest_labels``, whole body: 105 classes) never has the logits of the whole scan in memory: only what neighbouring
windows share is kept. One that brings probabilities back first (``linear_probabilities``, spleen: 2 classes) has, at
its own spacing, and one class at a time at the image's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Integer, Shaped
from torch import Tensor, nn

from nnunetv2_ext.architectures.segmentation_heads import SelectableHeads
from nnunetv2_ext.images.nifti import affine_of
from nnunetv2_ext.images.reading import Scan
from nnunetv2_ext.inference.bundles.profile import BundleProfile
from nnunetv2_ext.inference.deciding.rules import Decisions, LargestLogit, RuleOfCase, Winners
from nnunetv2_ext.inference.deciding.tiles import refuse_nonfinite
from nnunetv2_ext.inference.model.folder import WindowNetwork
from nnunetv2_ext.inference.preparing.nnunet import Prepared
from nnunetv2_ext.inference.segmentation import LogitsVisitor, Progress, Segmenter
from nnunetv2_ext.inference.windows.sliding_window import StreamingSlidingWindow, WindowPlan, pad_to_plan
from nnunetv2_ext.inference.windows.window_sweep import sweep
from nnunetv2_ext.utilities.errors import UserError


class BundlePreprocessing:
    """Orientation, spacing and intensities by MONAI's transforms.

    Args:
        profile: What the bundle does.
    """

    def __init__(self, profile: BundleProfile) -> None:
        from monai.transforms import Compose, Orientation, Spacing

        self._profile = profile
        self.orientation: str | None = profile.orientation
        self._spatial = Compose(
            [
                Orientation(axcodes=profile.orientation, labels=(("L", "R"), ("P", "A"), ("I", "S"))),
                Spacing(pixdim=profile.spacing[::-1], mode="bilinear"),
            ]
        )
        self._intensity = Compose([_intensity_rule(rule) for rule in profile.intensity])

    def prepare(self, scan: Scan, previous_stage: Scan | None = None) -> Prepared:
        """See `Preprocessing`.

        Raises:
            UserError: A previous stage is given; bundles have none.
        """
        from monai.data import MetaTensor

        if previous_stage is not None:
            raise UserError("Expected no label map of a previous stage: a MONAI bundle has one stage.")
        image = torch.from_numpy(np.ascontiguousarray(_turn(scan.channels))).float()
        header = scan.grid.nifti_header
        # The header's own numbers where there is one: MONAI leaves images alone whose spacing is right to the last
        # digit, and interpolates all others, after which no voxel is exactly 0 any more.
        affine = affine_of(scan.grid) if header is None else header.get_best_affine()
        placed = self._spatial(MetaTensor(image, affine=torch.from_numpy(np.asarray(affine, dtype=np.float64))))
        placement = {
            "operations": deepcopy(placed.applied_operations),
            "meta": deepcopy(placed.meta),
            "shape": tuple(placed.shape[:0:-1]),
        }
        data = self._intensity(placed).as_tensor().permute(0, 3, 2, 1)
        missing = [max(0, least - size) for least, size in zip(self._profile.window_size, data.shape[1:], strict=True)]
        before = [size // 2 for size in missing]
        if any(missing):
            edges = [edge for size, first in zip(missing, before, strict=True) for edge in (size - first, first)]
            data = torch.nn.functional.pad(data[None], edges[::-1], mode=self._profile.padding)[0]
        inside = tuple(slice(start, start + size) for start, size in zip(before, placement["shape"], strict=True))
        shape = (data.shape[1], data.shape[2], data.shape[3])
        return Prepared(
            data=data.contiguous(),
            spacing=self._profile.spacing,
            image_shape=shape,
            image_spacing=self._profile.spacing,
            placement={**placement, "inside": inside},
        )

    def restore(self, labels: Shaped[np.ndarray, "z y x"], prepared: Prepared) -> Shaped[np.ndarray, "z y x"]:
        """See `Preprocessing`; the nearest voxel's label, unless the labels are on the image's grid already."""
        if self._profile.inversion == "linear_probabilities":
            return labels
        inside = np.ascontiguousarray(labels[prepared.placement["inside"]])
        # Labels are whole numbers below 2^24, which float32 holds exactly.
        turned = self.invert(torch.from_numpy(inside.astype(np.float32)), prepared, "nearest")
        return turned.numpy().round().astype(labels.dtype)

    def stock_properties(self, scan: Scan, prepared: Prepared) -> dict[str, Any]:
        """Never there: stock nnU-Net did not prepare the image.

        Raises:
            UserError: Always.
        """
        raise UserError("Expected a model that nnU-Net prepares images for, but this one is a MONAI bundle.")

    def invert(
        self, volume: Float[Tensor, "z y x"], prepared: Prepared, mode: str | None = None
    ) -> Float[Tensor, "z y x"]:
        """Brings a volume of the network's grid to the grid of the image.

        Args:
            volume: Without padding.
            prepared: The case.
            mode: Interpolation instead of the one that the image was resampled with.
        """
        from monai.data import MetaTensor
        from monai.transforms.utils import convert_applied_interp_mode

        operations = prepared.placement["operations"]
        if mode is not None:
            operations = convert_applied_interp_mode(operations, mode=mode)
        placed = MetaTensor(volume.permute(2, 1, 0)[None], meta=deepcopy(prepared.placement["meta"]))
        placed.applied_operations = deepcopy(operations)
        return self._spatial.inverse(placed).as_tensor()[0].permute(2, 1, 0).contiguous()


class BundleWindows(StreamingSlidingWindow):
    """MONAI's positions and weights of windows.

    Args:
        profile: What the bundle does.
        like: Network, devices and fill.
    """

    def __init__(self, profile: BundleProfile, like: StreamingSlidingWindow) -> None:
        super().__init__(
            like.networks,
            like.num_classes,
            profile.window_size,
            device=like.device,
            accumulate_on=like.accumulate_on,
            fill=like.fill,
        )
        self._profile = profile

    def plan(self, shape: Sequence[int]) -> WindowPlan:
        """Windows every ``size * (1 - overlap)`` voxels, the last ones moved inside the image."""
        size = self._profile.window_size
        padded = tuple(max(extent, least) for extent, least in zip(shape, size, strict=True))
        starts = [self._starts(*extents) for extents in zip(padded, size, strict=True)]
        inside = [slice((new - old) // 2, (new - old) // 2 + old) for old, new in zip(shape, padded, strict=True)]
        axis = min(range(3), key=lambda along: size[along] / padded[along])
        return WindowPlan(
            (padded[0], padded[1], padded[2]),
            (inside[0], inside[1], inside[2]),
            size,
            (starts[0], starts[1], starts[2]),
            axis,
        )

    @torch.inference_mode()
    def winners(
        self, image: Float[Tensor, "channels z y x"], progress: Progress | None = None
    ) -> Integer[Tensor, "z y x"]:
        """The channel with the largest logit, on the CPU; what is added up is let go box by box, see `window_sweep`.

        Where the last layer is a 1x1x1 convolution from fewer channels than there are classes, these channels are added
        up and the layer comes after: it is linear, so that the order makes no difference but for rounding. Sums are not
        divided by the weights of the windows, which are the same for all classes.
        """
        plan = self.plan(image.shape[1:])
        padded = pad_to_plan(image, plan)
        winner = torch.empty(plan.padded_shape, dtype=torch.int16)
        (network,) = self.networks
        linear = LinearHead.of(network, self.accumulate_on)
        if linear is not None:
            network = linear.backbone

        def predict(position: tuple[int, int, int]) -> Tensor:
            outputs = self._run(network, self._load(padded, [position], plan))[0]
            if progress:
                progress(1)
            return outputs

        for box in sweep(predict, plan, self.window_weights()):
            for target, sums in zip(winner[box.where], box.sums.unbind(1), strict=True):
                logits = sums if linear is None else linear.logits(sums)
                largest, winners = logits.max(0)
                refuse_nonfinite(largest)
                target.copy_(winners)
            del box, sums, logits, largest, winners  # before the next window is made
        return winner[plan.inside]

    def _starts(self, extent: int, size: int) -> list[int]:
        step = size if size == extent else max(1, int(size * (1 - self._profile.overlap)))
        count = math.ceil((extent - size) / step) + 1
        return [min(number * step, extent - size) for number in range(count)]

    def window_weights(self) -> Float[Tensor, "z y x"]:
        """MONAI's importance of the voxels of a window."""
        from monai.data.utils import compute_importance_map

        weights: Tensor = compute_importance_map(
            self._profile.window_size, mode=self._profile.blend, sigma_scale=0.125, device=self.accumulate_on
        )
        return weights.float()


class LinearHead:
    """The last layer of a network, a 1x1x1 convolution, apart from everything before it.

    Args:
        network: Gives feature maps apart from the heads.
        device: Where features are added up.
    """

    def __init__(self, network: SelectableHeads, device: torch.device) -> None:
        self._network = network
        layer = network.decoder.seg_layers[-1]
        bias = layer.weight.new_zeros(layer.out_channels) if layer.bias is None else layer.bias
        self._matrix = torch.cat([layer.weight.flatten(1), bias[:, None]], 1).detach().to(device, torch.float32)

    @classmethod
    def of(cls, network: Any, device: torch.device) -> LinearHead | None:
        """None where the network has no such layer, or where adding up its inputs would take more memory."""
        if isinstance(network, WindowNetwork):
            if len(network.networks) > 1 or len(network.flips) > 1:
                return None
            network = network.networks[0]
        # Hooks, such as a label tree's, change what the last layer gives.
        if not isinstance(network, SelectableHeads) or network._forward_hooks:
            return None
        layer = network.decoder.seg_layers[-1]
        is_linear = isinstance(layer, nn.Conv3d) and set(layer.kernel_size) == {1} and set(layer.stride) == {1}
        return cls(network, device) if is_linear and layer.in_channels + 1 < layer.out_channels else None

    def backbone(self, windows: Float[Tensor, "batch channels z y x"]) -> Float[Tensor, "batch features z y x"]:
        """Inputs of the last layer, and a channel of ones, whose sum the bias is multiplied by."""
        features = self._network.forward_features(windows)[-1]
        return torch.cat([features, torch.ones_like(features[:, :1])], 1)

    def logits(self, sums: Float[Tensor, features * axes]) -> Float[Tensor, classes * axes]:
        """What the last layer makes of sums of what `backbone` gave."""
        return (self._matrix @ sums.flatten(1)).unflatten(1, sums.shape[1:])


class BundleSegmenter(Segmenter):
    """Runs a bundle's windows and decides as the bundle does.

    All logits of a scan are held only where the bundle decides on the image's grid, or where somebody visits them.

    Args:
        profile: What the bundle does.
        preprocessing: For bundles that decide on the image's grid.
        model: The model.
        rule: How logits become decisions.
        *arguments: As for `Segmenter`.
        **options: As for `Segmenter`.
    """

    def __init__(
        self,
        profile: BundleProfile,
        preprocessing: BundlePreprocessing,
        model: Any,
        rule: RuleOfCase,
        *arguments: Any,
        **options: Any,
    ) -> None:
        super().__init__(model, rule, *arguments, **options)
        self._profile = profile
        self._preprocessing = preprocessing
        self.windows: BundleWindows = BundleWindows(profile, self.windows)

    def _decide(self, prepared: Prepared, progress: Progress | None, visit_logits: LogitsVisitor | None) -> Decisions:
        if self._profile.inversion == "nearest_labels":
            if visit_logits is None:
                return Winners(self.windows.num_classes, self.windows.winners(prepared.data, progress).numpy())
            return super()._decide(prepared, progress, visit_logits)
        z, y, x = prepared.placement["inside"]
        logits = self.windows.logits(prepared.data, None, progress)[:, z, y, x]
        if visit_logits is not None:
            visit_logits(logits)
        # Probabilities are compared on the image's grid, one class at a time.
        logits = logits.cpu()
        normaliser = logits.logsumexp(0)
        rule: LargestLogit | None = None
        for values in logits:
            probability = self._preprocessing.invert((values - normaliser).exp(), prepared)
            rule = rule or LargestLogit(len(logits), probability.shape, probability.shape)
            rule.feed_channel(probability.numpy())
        assert rule is not None
        return rule.result()


def _intensity_rule(rule: Any) -> Any:
    from monai.transforms import NormalizeIntensity, ScaleIntensity, ScaleIntensityRange

    if rule["name"] == "normalize_nonzero":
        return NormalizeIntensity(nonzero=True)
    if rule["name"] == "scale":
        return ScaleIntensity(minv=rule["minimum"], maxv=rule["maximum"])
    return ScaleIntensityRange(*rule["from"], *rule["to"], clip=True)


def _turn(array: Shaped[np.ndarray, "channels z y x"]) -> Shaped[np.ndarray, "channels x y z"]:
    return array.transpose(0, 3, 2, 1)
