"""Draws the picture of the README, docs/overlay.png: the CT of the tests with its labels.

python scripts/draw_readme_picture.py
"""

from __future__ import annotations

from pathlib import Path

from nnunetv2_ext.images.preview import draw_label_maps
from nnunetv2_ext.images.reading import read_volume
from nnunetv2_ext.labels.label_order import LabelOrder

ROOT = Path(__file__).resolve().parents[1]
CASE = ROOT / "tests" / "data" / "ct_thorax_abdomen_3mm"

if __name__ == "__main__":
    image, labels = (read_volume(CASE / name) for name in ("ct.nii.gz", "totalsegmentator_v2_labels.nii.gz"))
    classes = LabelOrder.read("totalsegmentator_v2").classes_of_value
    names = {value: ", ".join(sorted(classes[value])) for value in classes}
    picture = draw_label_maps({"": labels.array}, image.array, names, image.grid, dpi=64)
    (ROOT / "docs" / "overlay.png").write_bytes(picture)
