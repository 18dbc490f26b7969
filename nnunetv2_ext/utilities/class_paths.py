"""Which dotted class paths a plans file or a checkpoint may name."""

from __future__ import annotations

from nnunetv2_ext.utilities.errors import UserError

# nnU-Net locates the class by name and calls it with arguments from the file: anything importable would be executed.
ALLOWED_PREFIXES = (
    "nnunetv2_ext.architectures.",
    "dynamic_network_architectures.",
    "monai.networks.nets.",
    "torch.nn.",
)


def check_class_path(path: str) -> str:
    """Returns ``path`` when it lies in a package of networks.

    Raises:
        UserError: It lies elsewhere.
    """
    if not str(path).startswith(ALLOWED_PREFIXES):
        raise UserError(
            f"Expected a network class from {', '.join(prefix + '*' for prefix in ALLOWED_PREFIXES)}, but the plans "
            f"name {path!r}; use plans from a source you trust and correct the class path."
        )
    return path
