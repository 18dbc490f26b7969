"""Running a network with OpenVINO on the CPU: the same weights in float32, about twice as fast as torch.

The largest difference on the logits of STU-Net S is about 5e-4 (another order of summation in the convolutions), so
voxels where two classes are that close may change their label. Nothing is quantised or run in bfloat16.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from torch import Tensor, nn

from nnunetv2_ext.inference.model.folder import Model
from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.utilities.extras import require_extra

_logger = logging.getLogger(__name__)


#: What ``--backend`` admits.
BACKENDS = ("torch", "openvino", "auto")


def run_by(
    backend: str, model: Model, window: Sequence[int], device: torch.device, precision: str
) -> tuple[Model, str]:
    """A model with its networks behind a backend, and which one that is.

    Args:
        backend: One of `BACKENDS`; ``auto`` is OpenVINO where it is installed and the device is the CPU.
        model: The model.
        window: Shape (z, y, x) of the windows, or (y, x).
        device: Where the network is to run.
        precision: What it is to compute in, one of `PRECISIONS`.

    Raises:
        UserError: The backend does not exist, is not installed, or cannot do what is asked for.
    """
    if backend not in BACKENDS:
        raise UserError(f"Expected one of {', '.join(BACKENDS)} as the backend, but got {backend!r}.")
    able = device.type == "cpu" and precision in ("auto", "float32")
    if backend == "openvino" and not able:
        raise UserError(
            f"Expected -device cpu and --precision float32 with --backend openvino, but got {device.type} and "
            f"{precision}."
        )
    if backend == "torch" or (backend == "auto" and not (able and importlib.util.find_spec("openvino"))):
        return model, "torch"
    if backend == "auto":
        _logger.info("Running the network with OpenVINO, which is installed (--backend torch does without).")
    shape = (determine_num_input_channels(model.plans, model.configuration, model.dataset_json), *window)
    cache = cache_folder(model.folder)
    networks: list[nn.Module] = [
        OpenVinoNetwork(network, shape, cache, key)
        for network, key in zip(model.networks, model.sha256.values(), strict=True)
    ]
    return replace(model, networks=networks), "openvino"


class OpenVinoNetwork(nn.Module):
    """A network compiled for one window shape.

    Args:
        network: The torch network; it is only converted where the cache has no converted one.
        window_shape: ``(channels, *patch)``.
        cache: Folder for the converted network; None to convert in every run.
        key: Names the weights within the cache, such as the SHA-256 of the checkpoint.

    Raises:
        UserError: OpenVINO is not installed.
    """

    def __init__(
        self, network: nn.Module, window_shape: Sequence[int], cache: Path | None = None, key: str = ""
    ) -> None:
        super().__init__()
        require_extra("openvino", "The backend openvino")
        import openvino

        core = openvino.Core()
        model = _cached_model(core, network, window_shape, cache, key)
        self._compiled = core.compile_model(
            model,
            "CPU",
            {
                # Processors with matrix units would otherwise compute in bfloat16.
                openvino.properties.hint.inference_precision: openvino.Type.f32,
                openvino.properties.hint.performance_mode: openvino.properties.hint.PerformanceMode.LATENCY,
                openvino.properties.inference_num_threads: torch.get_num_threads(),
            },
        )
        self._request = self._compiled.create_infer_request()
        self._output_shape = tuple(self._compiled.output(0).shape)[1:]

    def forward(self, window: Float[Tensor, "batch channels *patch"]) -> Float[Tensor, "batch classes *patch"]:
        """Logits of a batch of windows, one at a time (the shape is compiled in)."""
        import openvino

        logits = torch.empty((len(window), *self._output_shape))
        for single, output in zip(window.float(), logits, strict=True):
            # OpenVINO writes straight into the result: with 100 classes a copy takes a tenth of the network's time.
            self._request.set_output_tensor(0, openvino.Tensor(output[None].numpy(), shared_memory=True))
            self._request.infer([single[None].contiguous().numpy()], share_inputs=True)
        return logits


def cache_folder(model_folder: Path) -> Path | None:
    """Where converted networks are kept: beside the model, in the user's cache where that cannot be written."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nnunetv2_ext"
    for folder in (model_folder / "openvino", home / "openvino"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    _logger.info("No folder to keep the converted network in; it is converted again in every run.")
    return None


def _cached_model(core: Any, network: nn.Module, shape: Sequence[int], cache: Path | None, key: str) -> Any:
    import openvino

    if cache is None:
        return _convert(network, shape)
    heads = getattr(getattr(network, "decoder", None), "seg_layers", [nn.Identity()])
    # The heads may be a selection of the checkpoint's: they are part of the name.
    weights = [tensor for name, tensor in heads[-1].named_parameters() if name.endswith("weight")]
    own = b"".join(tensor.detach().numpy().tobytes() for tensor in weights)
    parts = (key.encode(), own, str(tuple(shape)).encode(), openvino.__version__.encode())
    folder = cache / hashlib.sha256(b"|".join(parts)).hexdigest()[:24]
    if not (folder / "network.xml").is_file():
        _logger.info("Converting the network for OpenVINO (once); it is kept in %s.", folder)
        temporary = Path(tempfile.mkdtemp(prefix=".converting-", dir=cache))
        try:
            openvino.save_model(_convert(network, shape), temporary / "network.xml", compress_to_fp16=False)
            try:
                temporary.rename(folder)
            except OSError:
                # Another process was faster; its file is as good.
                if not folder.is_dir():
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return core.read_model(folder / "network.xml")


def _convert(network: nn.Module, shape: Sequence[int]) -> Any:
    import openvino

    example = torch.zeros((1, *shape))
    with torch.no_grad(), warnings.catch_warnings():
        # OpenVINO reads torch networks through torch.jit, which torch calls deprecated at every step.
        warnings.filterwarnings("ignore", message=".*torch.jit.*", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*torch.jit.*", category=DeprecationWarning)
        # Shapes are fixed on purpose: every window has the same.
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        return openvino.convert_model(network, example_input=example, input=[(1, *shape)])
