"""Makes the trainers of this package known to nnU-Net.

``nnunetv2_ext.pth`` lies at the root of site-packages, so Python imports this module at every interpreter start.
nnU-Net reads ``nnUNet_extTrainer`` when it looks a trainer up; appending our discovery folder to it is all that is
needed for ``nnUNetv2_train -tr STUNetTrainer_base``. Child processes inherit the variable. The module must stay cheap
(no torch, no nnU-Net) and must not raise: it runs in every Python process of the environment.
"""

import os

DISCOVERY_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "discovery")


def register(environment: "os._Environ[str] | dict[str, str]" = os.environ) -> None:
    """Appends the discovery folder to ``nnUNet_extTrainer`` once, keeping the folders that the user has there.

    Args:
        environment: The mapping to change; the process environment by default.
    """
    folders = [folder for folder in environment.get("nnUNet_extTrainer", "").split(os.pathsep) if folder.strip()]
    if DISCOVERY_FOLDER not in folders:
        environment["nnUNet_extTrainer"] = os.pathsep.join([*folders, DISCOVERY_FOLDER])


register()
