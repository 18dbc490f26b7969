"""Segmentations for 3D Slicer."""

from __future__ import annotations

import gzip

import numpy as np
import SimpleITK

from nnunetv2_ext.images.label_maps import write_label_map
from nnunetv2_ext.images.reading import scan_of_array

NAMES = {1: "liver", 4: "spleen", 9: "absent"}


def _fields(file):
    """The header by hand, as the NRRD definition lays it down: lines up to an empty one, ``key:=value`` are custom."""
    header, _, body = file.read_bytes().partition(b"\n\n")
    lines = header.decode("utf-8").splitlines()
    custom = dict(line.split(":=", 1) for line in lines if ":=" in line)
    standard = dict(line.split(": ", 1) for line in lines if ": " in line and ":=" not in line)
    return lines[0], standard, custom, body


def test_segments_carry_name_value_colour_and_extent(tmp_path):
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[1:3, 2, 3:6] = 1
    labels[3, 0:2, 0] = 4
    write_label_map(labels, NAMES, scan_of_array(labels, (3, 2, 1)).grid, tmp_path / "map.seg.nrrd")
    magic, standard, custom, body = _fields(tmp_path / "map.seg.nrrd")
    assert magic.startswith("NRRD000")
    assert standard["space"] == "left-posterior-superior"
    assert standard["sizes"] == "6 5 4"
    assert standard["type"] in ("unsigned char", "uint8")
    assert np.array_equal(np.frombuffer(gzip.decompress(body), np.uint8).reshape(4, 5, 6), labels)
    assert [custom[f"Segment{number}_Name"] for number in range(3)] == ["liver", "spleen", "absent"]
    assert [custom[f"Segment{number}_LabelValue"] for number in range(3)] == ["1", "4", "9"]
    assert [custom[f"Segment{number}_Layer"] for number in range(3)] == ["0", "0", "0"]
    assert custom["Segment0_Extent"] == "3 5 2 2 1 2"
    assert custom["Segment1_Extent"] == "0 0 0 1 3 3"
    assert custom["Segment2_Extent"] == "0 -1 0 -1 0 -1"
    assert len({custom[f"Segment{number}_ID"] for number in range(3)}) == 3
    for number in range(3):
        colour = [float(share) for share in custom[f"Segment{number}_Color"].split()]
        assert len(colour) == 3
        assert all(0 <= share <= 1 for share in colour)
    assert custom["Segmentation_MasterRepresentation"] == "Binary labelmap"
    assert custom["Segmentation_ReferenceImageExtentOffset"] == "0 0 0"


def test_other_readers_see_the_fields_too(tmp_path):
    labels = np.ones((2, 3, 4), np.uint8)
    write_label_map(labels, NAMES, scan_of_array(labels, (3, 2, 1)).grid, tmp_path / "map.seg.nrrd")
    image = SimpleITK.ReadImage(str(tmp_path / "map.seg.nrrd"))
    assert image.GetMetaData("Segment1_Name") == "spleen"
    assert image.GetSpacing() == (1, 2, 3)
