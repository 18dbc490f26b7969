"""Any folder of images and label maps."""

import json
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_ext.images.label_maps import write_volume
from nnunetv2_ext.images.reading import read_dicom_series
from nnunetv2_ext.labels import LabelOrder
from nnunetv2_ext.utilities.errors import UserError


@pytest.fixture
def label_maps(miniature):
    """Two cases; returns the file that names their classes."""
    order = LabelOrder("mine", {"liver": 3, "spleen": 7})
    for case in "ab":
        miniature.case(f"images/{case}.nii.gz", f"labels/{case}.nii.gz", order)
    return miniature.text("order.json", order.to_json())


def test_converts_the_layout(label_maps, assert_converts):
    assert_converts("label_maps", training=2, licensed=False, order=str(label_maps))


def test_the_commands_of_the_documentation_run(label_maps, miniature, pictures, assert_documented_commands_run):
    miniature.save("test/c.nii.gz", miniature.image())
    pictures(".png", 3)
    assert_documented_commands_run("label_maps")


@pytest.mark.parametrize(
    "options",
    [{"image": "images/a.nii.gz"}, {"label": "labels/a.nii.gz"}, {"label": "labels/{case}/{class}.nii.gz"}],
    ids=str,
)
def test_patterns_that_do_not_tell_cases_apart_are_refused(options, label_maps, convert):
    with pytest.raises(UserError, match=r"\{case\} in --image and --label, and no \{class\}.*the layout 'masks'"):
        convert("label_maps", order=str(label_maps), **options)


def test_names_cannot_come_from_label_maps_that_are_not_there(miniature, convert):
    miniature.save("images/a.nii.gz", miniature.image())
    with pytest.raises(UserError, match=r"Expected label maps in .*, but found none"):
        convert("label_maps")


def test_a_test_set_goes_where_nnunet_looks_for_it(label_maps, miniature, convert, raw_folder, verify_integrity):
    order = LabelOrder.read(label_maps)
    miniature.case("test/c.nii.gz", "test_labels/c.nii.gz", order)
    miniature.case("test/d.nii.gz", None, order)
    patterns = {"test_image": "test/{case}.nii.gz", "test_label": "test_labels/{case}.nii.gz"}
    result = convert("label_maps", order=str(label_maps), **patterns)
    assert not result.failed
    files = {str(file.relative_to(raw_folder)) for file in raw_folder.rglob("*.nii.gz")}
    assert {file for file in files if "Ts" in file} == {
        *("imagesTs/c_0000.nii.gz", "imagesTs/d_0000.nii.gz", "labelsTs/c.nii.gz"),
    }
    assert json.loads((raw_folder / "dataset.json").read_text())["numTraining"] == 2
    verify_integrity(raw_folder)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"test_label": "test/{case}.nii.gz"}, "Expected --test_image"),
        ({"test_image": "test/c.nii.gz"}, r"\{case\} in --test_image and --test_label"),
        ({"test_image": "a/{case}.nii.gz", "test_label": "{case}/{class}.nii.gz"}, "the layout 'masks'"),
    ],
)
def test_patterns_of_test_sets_are_checked(options, sentence, label_maps, convert):
    with pytest.raises(UserError, match=sentence):
        convert("label_maps", order=str(label_maps), **options)


def test_real_label_maps_come_back(real_ct, miniature, convert, raw_folder):
    (miniature.root / "images/thorax").mkdir(parents=True)
    (miniature.root / "labels").mkdir()
    (miniature.root / "images/thorax/ct.nii.gz").symlink_to(real_ct / "ct.nii.gz")
    label = miniature.root / "labels/thorax.nii.gz"
    label.symlink_to(real_ct / "totalsegmentator_v2_labels.nii.gz")
    order = LabelOrder.read("totalsegmentator_v2")
    converted = convert("label_maps", order="totalsegmentator_v2", image="images/{case}/ct.nii.gz")
    assert not converted.failed
    source, found = (
        sitk.GetArrayFromImage(sitk.ReadImage(str(file))) for file in (label, raw_folder / "labelsTr/thorax.nii.gz")
    )
    np.testing.assert_array_equal(found, order.remap(source, to=order.consecutive()))


def test_a_real_series_is_a_case_of_its_folder(real_ct_folder, miniature, convert, raw_folder):
    (miniature.root / "images").mkdir(parents=True)
    (miniature.root / "images/scanner").symlink_to(real_ct_folder / "ct_dicom")
    image = read_dicom_series(real_ct_folder / "ct_dicom")
    drawn = np.zeros(image.array.shape, np.uint8)
    drawn[3:9, 100:180, 60:200] = 7
    (miniature.root / "labels").mkdir()
    write_volume(image.with_array(drawn), miniature.root / "labels/scanner.nii.gz")
    order = miniature.text("order.json", {"name": "mine", "labels": {"drawn": 7}})
    assert not convert("label_maps", order=str(order), image="images/{case}").failed
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(raw_folder / "labelsTr/scanner.nii.gz")))
    np.testing.assert_array_equal(found, drawn // 7)
    written = sitk.GetArrayFromImage(sitk.ReadImage(str(raw_folder / "imagesTr/scanner_0000.nii.gz")))
    np.testing.assert_array_equal(written, image.array)


# Pictures ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(miniature):
    """``pictures(".png", colours=3)`` writes two pictures with label maps of cells (255); returns both by case."""

    def write(ending, colours, dtype=np.uint8, cases="ab"):
        from PIL import Image

        content = {}
        for seed, case in enumerate(cases):
            random = np.random.default_rng(seed)
            picture = random.integers(0, 200, (20, 30, colours)).astype(dtype).squeeze()
            label = np.where(random.random((20, 30)) < 0.3, 255, 0).astype(np.uint8)
            for folder, array, suffix in (("images", picture, ending), ("labels", label, ".png")):
                file = miniature.root / folder / f"{case}{suffix}"
                file.parent.mkdir(parents=True, exist_ok=True)
                # A resolution in print, which says nothing of what was pictured.
                options: dict[str, Any] = {"subsampling": 0} if suffix == ".jpg" else {}
                Image.fromarray(array).save(file, dpi=(300, 300) if folder == "images" else (72, 72), **options)
            content[case] = picture, label
        return content, miniature.text("cells.json", {"name": "cells", "labels": {"cell": 255}})

    return write


@pytest.mark.parametrize(
    ("ending", "colours", "written", "dtype"),
    [
        (".png", 1, ".png", np.uint8),
        (".png", 1, ".png", np.uint16),
        (".png", 3, ".png", np.uint8),
        (".png", 4, ".png", np.uint8),
        (".tif", 3, ".tif", np.uint8),
        (".tif", 1, ".tif", np.float32),
        (".bmp", 3, ".png", np.uint8),
        (".tiff", 1, ".tif", np.float32),
        (".jpg", 3, ".png", np.uint8),
        (".jpg", 1, ".png", np.uint8),
    ],
)
def test_pictures_are_read_by_nnunet_as_they_were(
    ending, colours, written, dtype, pictures, convert, raw_folder, verify_integrity
):
    import skimage.io as io
    from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO

    content, order = pictures(ending, colours, dtype)
    source = order.parent
    layout = {"image": f"images/{{case}}{ending}", "label": "labels/{case}.png"}
    assert not convert("label_maps", order=str(order), **layout).failed
    dataset = json.loads((raw_folder / "dataset.json").read_text())
    assert dataset["file_ending"] == written
    names = {1: ["grey"], 3: ["R", "G", "B"], 4: ["R", "G", "B", "A"]}[colours]
    assert list(dataset["channel_names"].values()) == names
    verify_integrity(raw_folder)
    for case, (_, label) in content.items():
        files = sorted(str(file) for file in (raw_folder / "imagesTr").glob(f"{case}_*"))
        assert [file[-len(written) - 5 :] for file in files] == [f"_0000{written}"]
        array, properties = NaturalImage2DIO().read_images(files)
        expected = np.moveaxis(np.atleast_3d(io.imread(source / "images" / f"{case}{ending}")), -1, 0)[:, None]
        # Decoders of JPEG round differently.
        np.testing.assert_allclose(array, expected, rtol=0, atol=2 if ending == ".jpg" else 0)
        assert properties["spacing"] == (999, 1, 1)
        found, _ = NaturalImage2DIO().read_seg(str(raw_folder / "labelsTr" / f"{case}{written}"))
        np.testing.assert_array_equal(found[0, 0], label == 255)


def test_pictures_of_other_colours_and_damaged_ones_are_refused_alone(pictures, convert, raw_folder):
    _, order = pictures(".jpg", 3, cases="abcd")
    pictures(".jpg", 1, cases="c")
    first = order.parent / "images/a.jpg"
    first.write_bytes(first.read_bytes()[:-300])
    result = convert("label_maps", order=str(order), image="images/{case}.jpg", label="labels/{case}.png")
    reasons = {record.identifier: record.findings[-1].message for record in result.failed}
    assert sorted(reasons) == ["a", "c"]
    assert "it ends within its last scan" in reasons["a"]
    assert "Expected 3 channel(s) (R, G, B), but found 1" in reasons["c"]
    assert sorted(file.name for file in (raw_folder / "labelsTr").iterdir()) == ["b.png", "d.png"]


def test_channels_may_be_pictures_of_their_own(pictures, convert, raw_folder, verify_integrity):
    content, order = pictures(".png", 1)
    for case in content:
        for name in ("red", "far"):
            target = order.parent / "channels" / name / f"{case}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((order.parent / "images" / f"{case}.png").read_bytes())
    layout = {"image": "channels/{channel}/{case}.png", "label": "labels/{case}.png", "channel_names": ("red", "far")}
    result = convert("label_maps", order=str(order), **layout)
    assert len(result.converted) == 2, [record.findings for record in result.failed]
    assert sorted(file.name for file in (raw_folder / "imagesTr").glob("a*")) == ["a_0000.png", "a_0001.png"]
    verify_integrity(raw_folder)
