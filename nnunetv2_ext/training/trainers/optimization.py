"""How batches change weights: which of them train, by what rule, at what rate, in what precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo import OptimizedModule
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_ext.architectures.parts import Part, belongs_to, check_part, family_of_network
from nnunetv2_ext.training.lr_scheduler.per_group import GroupwisePolyLR, decayed_groups
from nnunetv2_ext.training.options import RECORD
from nnunetv2_ext.training.trainers.stopping import StoppingTrainer
from nnunetv2_ext.training.weight_average import WeightAverage
from nnunetv2_ext.utilities.errors import UserError

TRAINING_WEIGHTS = "training_weights"
"""Entry of a checkpoint's ``optimizer_state``: the weights that train, where ``network_weights`` are their average."""

#: Rate relative to that of SGD, and weight decay, of those who chose nothing but the optimiser.
_USUAL = {"sgd": (1.0, 3e-5), "adamw": (0.1, 1e-2)}


class OptimizationTrainer(StoppingTrainer):
    """nnU-Net's optimisation with what users of pretrained networks ask for.

    Attributes:
        optimizer_name: ``"sgd"`` (Nesterov momentum 0.99) or ``"adamw"``.
        adam_epsilon: Added to the denominator of AdamW's step.
        layer_decay: Factor of the rate per stage from the heads down.
        grad_accumulation: Batches whose gradients one step averages; what is left of an epoch makes a smaller step.
        precision: ``"auto"`` is nnU-Net's: float16 on CUDA, float32 elsewhere; or ``"float32"``, ``"bfloat16"``,
            ``"float16"``.
        freeze: Part of the network that does not train.
        freeze_epochs: Epochs after which it does; None for never.
        ema: Decay of the average of the weights that is validated and saved; 0 for none.
        activation_checkpointing: Whether activations are recomputed in the backward pass; None: as the network has it.
    """

    optimizer_name: str = "sgd"
    adam_epsilon: float = 1e-8
    layer_decay: float = 1.0
    grad_accumulation: int = 1
    precision: str = "auto"
    freeze: Part = "none"
    freeze_epochs: int | None = None
    ema: float = 0.0
    activation_checkpointing: bool | None = None

    # Set by nnU-Net; named here for type checkers, which do not see into nnU-Net.
    network: nn.Module
    grad_scaler: torch.amp.GradScaler | None
    initial_lr: float
    weight_decay: float
    num_iterations_per_epoch: int

    _frozen: tuple[nn.Parameter, ...] = ()
    _batches = 0
    _average: WeightAverage | None = None

    @property
    def bare_network(self) -> nn.Module:
        """The network without the wrappers of torch.compile and of distributed training."""
        network = self.network.module if isinstance(self.network, DistributedDataParallel) else self.network
        return network._orig_mod if isinstance(network, OptimizedModule) else network

    def initialize(self) -> None:
        """Builds network, optimiser and loss.

        Raises:
            UserError: The network or the device does not offer what the options ask for.
        """
        if self.freeze == "none" and self.freeze_epochs is not None:
            raise UserError("--freeze_epochs says how long --freeze holds; give --freeze encoder or backbone, too.")
        self._choose_scaler()
        self._choose_rates()
        super().initialize()
        check_part(self.bare_network, self.freeze)
        if self.activation_checkpointing is not None:
            switch_activation_checkpointing(self.bare_network, self.activation_checkpointing)

    def _choose_scaler(self) -> None:
        device = self.device.type
        supported = {"float16": ("cuda",), "bfloat16": ("cuda", "cpu")}.get(self.precision, (device,))
        if device not in supported:
            raise UserError(
                f"--precision {self.precision} expects -device {' or '.join(supported)}, but got {device}; leave it "
                "out."
            )
        if self.precision == "bfloat16" and device == "cuda" and not torch.cuda.is_bf16_supported():
            raise UserError(
                "--precision bfloat16 expects a GPU that knows this type, but this one does not; leave it out."
            )
        if self.precision in ("float32", "bfloat16"):
            self.grad_scaler = None

    def _choose_rates(self) -> None:
        usual = type(self).optimizer_name
        if self.optimizer_name == usual:
            return
        (ratio, decay), given = _USUAL[self.optimizer_name], self.my_init_kwargs.get(RECORD, {})
        if "initial_lr" not in given:
            self.initial_lr *= ratio / _USUAL[usual][0]
        if "weight_decay" not in given:
            self.weight_decay = decay
        self.print_to_log_file(
            f"Optimiser {self.optimizer_name} with an initial learning rate of {self.initial_lr:g} and a weight decay "
            f"of {self.weight_decay:g}."
        )

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        """The optimiser with nnU-Net's polynomial schedule."""
        optimizer = self.make_optimizer()
        return optimizer, GroupwisePolyLR(optimizer, self.initial_lr, self.num_epochs)

    def make_optimizer(self) -> torch.optim.Optimizer:
        """The optimiser of all weights."""
        groups = decayed_groups(self.bare_network, self.layer_decay)
        if self.optimizer_name == "adamw":
            return torch.optim.AdamW(groups, self.initial_lr, weight_decay=self.weight_decay, eps=self.adam_epsilon)
        return torch.optim.SGD(groups, self.initial_lr, weight_decay=self.weight_decay, momentum=0.99, nesterov=True)

    # What trains ---------------------------------------------------------------------------------------------------

    def frozen_part(self, epoch: int) -> Part:
        """The part of the network that does not train in an epoch."""
        return self.freeze if self.freeze_epochs is None or epoch < self.freeze_epochs else "none"

    def on_train_epoch_start(self) -> None:
        """Training mode, the rate of the epoch, and what does not train in it frozen."""
        super().on_train_epoch_start()
        # Some are done where a training goes on within an epoch.
        self._batches = len(self.train_outputs or ())
        self._freeze(self.frozen_part(self.current_epoch))

    def _freeze(self, part: Part) -> None:
        # Frozen for real: without gradients there is neither decay nor momentum, and the norm that is clipped is that
        # of the rest.
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        family = family_of_network(self.bare_network)
        before, self._frozen = (
            self._frozen,
            tuple(
                parameter
                for name, parameter in self.bare_network.named_parameters()
                if parameter.requires_grad and belongs_to(name, part, family)
            ),
        )
        for parameter in self._frozen:
            parameter.requires_grad_(False)
            parameter.grad = None
        for name, module in self.bare_network.named_modules():
            # The only norm with a memory.
            if isinstance(module, _BatchNorm) and belongs_to(name, part, family):
                module.eval()
        if isinstance(self.network, DistributedDataParallel) and list(map(id, before)) != list(map(id, self._frozen)):
            # The wrapper decides at construction which gradients it waits for.
            self.network = DistributedDataParallel(self.network.module, device_ids=self.network.device_ids)

    # Steps ---------------------------------------------------------------------------------------------------------

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Adds the gradient of a batch, and takes a step when there are enough.

        Replaces nnU-Net's method, which has no hook for the precision, for accumulated gradients and for what follows a
        step; with the defaults it computes the same.
        """
        place = self._batches % self.num_iterations_per_epoch
        first = place - place % self.grad_accumulation
        batches = min(self.grad_accumulation, self.num_iterations_per_epoch - first)
        is_last = place == first + batches - 1
        if place == first:
            self.optimizer.zero_grad(set_to_none=True)
        with nullcontext() if is_last else self._without_exchange():
            loss = self.training_loss(batch)
            share = loss / batches if batches > 1 else loss
            (share if self.grad_scaler is None else self.grad_scaler.scale(share)).backward()
        self._batches += 1
        if is_last:
            self._step()
        return {"loss": loss.detach().cpu().numpy()}

    def training_loss(self, batch: dict[str, Any]) -> Tensor:
        """The loss of a batch."""
        images, target = batch["data"].to(self.device, non_blocking=True), batch["target"]
        target = (
            [level.to(self.device, non_blocking=True) for level in target]
            if isinstance(target, list)
            else target.to(self.device, non_blocking=True)
        )
        with self.autocast():
            loss: Tensor = self.loss(self.network(images), target)
        return loss

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision in which networks run."""
        if self.precision == "float32" or (self.precision == "auto" and self.device.type != "cuda"):
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16 if self.precision == "bfloat16" else torch.float16)

    def _without_exchange(self) -> AbstractContextManager[Any]:
        """Gradients of several GPUs are averaged once per step."""
        return self.network.no_sync() if isinstance(self.network, DistributedDataParallel) else nullcontext()

    def _step(self) -> None:
        if self.grad_scaler is not None:
            self.grad_scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.network.parameters(), 12)
        if self.grad_scaler is None:
            self.optimizer.step()
        else:
            self.grad_scaler.step(self.optimizer)
            self.grad_scaler.update()
        if self._average is not None:
            self._average.update()

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """nnU-Net's, in the precision of the training where this is CUDA's other one."""
        with self._default_precision():
            outputs: dict[str, Any] = super().validation_step(batch)
        return outputs

    @contextmanager
    def _default_precision(self) -> Iterator[None]:
        """Lets nnU-Net's own autocast, which names no precision, use that of the training."""
        chosen = {"bfloat16": torch.bfloat16, "float32": torch.float32}.get(self.precision)
        if self.device.type != "cuda" or chosen is None:
            yield
            return
        before = torch.get_autocast_dtype("cuda")
        torch.set_autocast_dtype("cuda", chosen)
        try:
            yield
        finally:
            torch.set_autocast_dtype("cuda", before)

    # The average of the weights ------------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        """Loads the data; the average begins with the weights as they are."""
        super().on_train_start()
        if self.ema:
            self._average = WeightAverage(self.bare_network, self.ema)

    def restore_training_weights(self, optimizer_state: dict[str, Any]) -> None:
        """Gives the network the weights that train, where those of its checkpoint were their average."""
        parameters = dict(self.bare_network.named_parameters())
        with torch.no_grad():
            for name, value in optimizer_state.get(TRAINING_WEIGHTS, {}).items():
                parameters[name].copy_(value)

    def on_validation_epoch_start(self) -> None:
        """Evaluation mode, with the average of the weights."""
        super().on_validation_epoch_start()
        if self._average is not None:
            self._average.exchange()

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        """Logs loss and pseudo Dice; from here on the network has the weights that train again."""
        if self._average is not None:
            self._average.exchange()
        super().on_validation_epoch_end(val_outputs)

    def save_checkpoint(self, filename: str) -> None:
        """Writes a checkpoint whose ``network_weights`` are the average, for all who know nothing of it."""
        if self._average is None:
            super().save_checkpoint(filename)
            return
        with self._average.in_network() as training:
            hook = self.optimizer.register_state_dict_post_hook(
                lambda _optimizer, state: {**state, TRAINING_WEIGHTS: dict(training)}
            )
            try:
                super().save_checkpoint(filename)
            finally:
                hook.remove()

    def on_train_end(self) -> None:
        """Writes the last checkpoint; what is validated then is what it holds."""
        super().on_train_end()
        if self._average is not None:
            self._average.exchange()
            self._average = None


def switch_activation_checkpointing(network: nn.Module, wanted: bool) -> None:
    """Switches the recomputation of activations in the backward pass on or off.

    Raises:
        UserError: The network has no such switch.
    """
    # The names that this package and MONAI give it.
    names = ("activation_checkpointing", "use_checkpoint")
    switches = [(module, name) for module in network.modules() for name in names if name in vars(module)]
    if not switches:
        raise UserError(
            f"--activation_checkpointing expects a network that can recompute its activations (STU-Net, SwinUNETR), "
            f"but {type(network).__name__} cannot; leave it out."
        )
    for module, name in switches:
        setattr(module, name, wanted)
