"""MultiTalent for nnU-Net v2: a softmax head for each source of a collection, and a stem for each where wanted.

https://github.com/MIC-DKFZ/MultiTalent (branch ``public_MT``), which is published with a batch of 24 (``--batch_size``)
and 4000 epochs (``_4000ep``). Regions of a source become exclusive classes (`nnunetv2_ext.labels.source_heads`).
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from nnunetv2_ext.architectures.architecture import Architecture
from nnunetv2_ext.architectures.multi_head import with_heads
from nnunetv2_ext.checkpoints.plans import check_plans, resolve_configuration
from nnunetv2_ext.labels.dataset_json import image_channels
from nnunetv2_ext.labels.partial_labels import PartialLabels
from nnunetv2_ext.labels.source_heads import source_heads
from nnunetv2_ext.training.outputs.heads import HeadOutputs
from nnunetv2_ext.training.trainers.base import refuse_other_kinds
from nnunetv2_ext.training.trainers.collection import CollectionTrainer
from nnunetv2_ext.training.variants import define_variants


class SourceHeadsTrainer(CollectionTrainer):
    """Trains the head of each image's source; the plans of the training say which heads there are.

    Attributes:
        separate_stems: Give every source a stem of its own, for sources whose images differ (CT, MR, PET).
    """

    kind = "collection"
    separate_stems: ClassVar[bool] = False
    initial_lr = 1e-3
    outputs: HeadOutputs

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int | str,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008  the signature is nnU-Net's contract
    ):
        refuse_other_kinds(type(self), dataset_json)
        check_plans(plans, "the plans of this training", to_train=True)
        # nnU-Net writes them into the model folder, where they tell predictions what the network is.
        super().__init__(
            self._with_heads(plans, configuration, dataset_json), configuration, fold, dataset_json, device
        )
        self.probabilistic_oversampling = True

    def _with_heads(self, plans: dict[str, Any], configuration: str, dataset_json: dict[str, Any]) -> dict[str, Any]:
        heads = source_heads(PartialLabels.from_dataset_json(dataset_json)).values()
        names = [f"{number:03d}" for number in range(len(heads))]
        stems = dict.fromkeys(names, len(image_channels(dataset_json))) if self.separate_stems else None
        plans = deepcopy(plans)
        planned = Architecture.from_plans(resolve_configuration(plans, configuration))
        outputs = {name: head.outputs for name, head in zip(names, heads, strict=True)}
        arguments = {**planned.arguments, "heads": outputs, "stems": stems}
        network = replace(planned, class_path=with_heads(planned.class_path), arguments=arguments)
        plans["configurations"][configuration]["architecture"] = network.to_plans()
        return plans

    def _read_labels(self, dataset_json: Mapping[str, Any]) -> None:
        self.outputs = HeadOutputs(dataset_json)

    def _run_network(self, images: Tensor, batch: dict[str, Any]) -> tuple[Tensor, Any]:
        """The places of the images' heads, and the outputs of these heads, one after the other."""
        places = self.outputs.places(batch["keys"])
        return places, self.network(images, places)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """See `ExtTrainer`; probabilities are not kept."""
        if save_probabilities:
            self.print_to_log_file("Probabilities are not written: the softmax of a source knows its own classes only.")
        super().perform_actual_validation()


__all__ = define_variants(globals())  # noqa: PLE0605
