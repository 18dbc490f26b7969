import json
import os
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from fixtures.masks import decode_masks

from nnunetv2_ext.dataset_conversion import raw_dataset
from nnunetv2_ext.dataset_conversion.converter import ConversionOptions
from nnunetv2_ext.dataset_conversion.raw_dataset import convert_dataset
from nnunetv2_ext.dataset_conversion.regions import region_labels
from nnunetv2_ext.dataset_conversion.registry import datasets
from nnunetv2_ext.dataset_conversion.summary import describe_result
from nnunetv2_ext.labels import LabelOrder
from nnunetv2_ext.utilities.errors import UserError

REPORT = "conversion_report.json"
ORDER = LabelOrder(
    "mini",
    {"liver": 1, "kidney_left": 2, "kidney_right": 3, "lung_left": 4, "lung_right": 5},
    left_right_pairs=(("kidney_left", "kidney_right"), ("lung_left", "lung_right")),
)


@pytest.fixture
def source(miniature):
    """Writes good cases; tests spoil some of them."""
    miniature.text("order.json", ORDER.to_json())

    def make(*names):
        for name in names:
            miniature.case(f"images/{name}.nii.gz", f"labels/{name}.nii.gz", ORDER)
        return miniature

    return make


@pytest.fixture
def convert(miniature, nnunet_folders):
    """Converts the source as label maps, or as another layout."""
    folder = nnunet_folders / "nnUNet_raw" / "Dataset007_Mini"

    def run(layout="label_maps", *, overwrite=False, num_processes=1, **options):
        if layout == "label_maps":
            options.setdefault("order", str(miniature.root / "order.json"))
        converter = datasets()[layout].open(miniature.root, ConversionOptions(**options))
        return convert_dataset(converter, folder, overwrite=overwrite, num_processes=num_processes, progress=False)

    return run


def _files(folder, *, content=False):
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items()} if content else sorted(files)


def _reasons(result):
    return {record.identifier: record.findings[-1] for record in result.failed}


def test_every_fault_is_found_and_the_rest_converted(source, convert, verify_integrity):
    names = (
        "good",
        "unlabelled",
        "mirrored",
        "shifted",
        "cut_image",
        "cut_label",
        "strange",
        "broken",
        "fraction",
        "twin",
    )
    mini = source(*names)
    images, labels = mini.root / "images", mini.root / "labels"
    (labels / "unlabelled.nii.gz").unlink()
    mini.save("labels/mirrored.nii.gz", mini.label(ORDER)[:, :, ::-1])
    mini.save("labels/shifted.nii.gz", mini.label(ORDER), origin=(-20.0, 10.0, 306.0))
    for file in (images / "cut_image.nii.gz", labels / "cut_label.nii.gz"):
        file.write_bytes(file.read_bytes()[:-40])
    label = mini.label(ORDER)
    label[0, 0, 0] = 9
    mini.save("labels/strange.nii.gz", label)
    image = mini.image().astype(np.float32)
    image[3, 3, 3] = np.nan
    mini.save("images/broken.nii.gz", image)
    mini.save("labels/fraction.nii.gz", mini.label(ORDER).astype(np.float32) * 0.5)
    mini.save("labels/orphan.nii.gz", mini.label(ORDER))
    (images / "twin.nii.gz").write_bytes((images / "good.nii.gz").read_bytes())
    result = convert()
    reasons = _reasons(result)
    assert {name: finding.kind for name, finding in reasons.items()} == {
        "unlabelled": "incomplete",
        "orphan": "incomplete",
        "mirrored": "mirrored",
        "shifted": "grids_differ",
        "cut_image": "unreadable",
        "cut_label": "unreadable",
        "strange": "unknown_values",
        "broken": "not_a_number",
        "fraction": "unreadable",
    }
    for finding in reasons.values():
        assert finding.message.startswith("Expected ")
        assert finding.message.count("\n") == 0
    assert [record.identifier for record in result.converted] == ["good", "twin"]
    assert [finding.kind for finding in result.converted[1].findings] == ["duplicate"]
    verify_integrity(result.folder)
    assert _files(result.folder) == [
        REPORT,
        "dataset.json",
        *(f"imagesTr/{name}_0000.nii.gz" for name in ("good", "twin")),
        *(f"labelsTr/{name}.nii.gz" for name in ("good", "twin")),
    ]


def test_the_report_counts_and_lists(source, convert, miniature):
    source("a", "b")
    miniature.save("labels/b.nii.gz", np.zeros_like(miniature.label(ORDER)))
    result = convert()
    report = json.loads((result.folder / REPORT).read_text())
    assert report["classes"]["liver"] == {"voxels": 2, "cases": 1}
    assert report["converted"] == 2
    assert report["findings"] == {"empty_label": 1}
    assert report["cases"]["a"]["shape"] == [12, 14, 16]
    assert report["cases"]["a"]["spacing"] == [3.0, 1.25, 1.5]
    assert report["cases"]["a"]["placed"] == ["hard link"]
    assert report["image_files"] == {"hard link": 2}


def test_strict_refuses_what_is_only_odd(source, convert, miniature):
    source("a", "b", "c")
    miniature.save("labels/b.nii.gz", np.zeros_like(miniature.label(ORDER)))
    (miniature.root / "images/c.nii.gz").write_bytes((miniature.root / "images/a.nii.gz").read_bytes())
    result = convert(strict=True)
    assert {name: finding.kind for name, finding in _reasons(result).items()} == {"b": "empty_label", "c": "duplicate"}
    assert _files(result.folder / "imagesTr") == ["a_0000.nii.gz"]
    assert _files(result.folder / "labelsTr") == ["a.nii.gz"]
    accepted = convert(strict=True, accept=("empty_label", "duplicate"))
    assert not accepted.failed


def test_accepted_faults_are_converted(source, convert, miniature, verify_integrity):
    source("a", "b")
    miniature.save("labels/a.nii.gz", miniature.label(ORDER)[:, :, ::-1])
    image = miniature.image().astype(np.float32)
    image[3, 3, 3] = np.nan
    miniature.save("images/b.nii.gz", image)
    result = convert(accept=("mirrored", "not_a_number"))
    assert not result.failed
    verify_integrity(result.folder)
    written = sitk.GetArrayFromImage(sitk.ReadImage(str(result.folder / "imagesTr/b_0000.nii.gz")))
    assert written[3, 3, 3] == np.nanmin(image)
    assert [record.placed for record in result.converted] == [["hard link"], ["rewritten"]]
    assert (result.folder / "imagesTr/a_0000.nii.gz").samefile(miniature.root / "images/a.nii.gz")


def test_labels_are_resampled_when_asked(source, convert, miniature, verify_integrity):
    source("a")
    image = sitk.ReadImage(str(miniature.root / "labels/a.nii.gz"))
    coarse = sitk.Resample(
        image, (8, 7, 12), sitk.Transform(), sitk.sitkNearestNeighbor, image.GetOrigin(), (3.0, 2.5, 3.0)
    )
    sitk.WriteImage(coarse, str(miniature.root / "labels/a.nii.gz"))
    with pytest.raises(UserError, match=r"voxels and \(8, 7, 12\)"):
        convert()
    result = convert(resample_labels=True)
    (record,) = result.converted
    assert [finding.kind for finding in record.findings] == ["resampled"]
    verify_integrity(result.folder)
    truth = sitk.Resample(coarse, image, sitk.Transform(), sitk.sitkNearestNeighbor)
    written = sitk.ReadImage(str(result.folder / "labelsTr/a.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(written), sitk.GetArrayFromImage(truth))


def test_values_without_gaps_and_an_ignore_label_last(miniature, convert, verify_integrity):
    order = LabelOrder("mini", {"liver": 4, "spleen": 9}, ignore_label=255)
    label = miniature.label(order)
    label[5] = 255
    miniature.save("images/a.nii.gz", miniature.image())
    miniature.save("labels/a.nii.gz", label)
    miniature.text("order.json", order.to_json())
    result = convert()
    verify_integrity(result.folder)
    content = json.loads((result.folder / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, "liver": 1, "spleen": 2, "ignore": 3}
    written = sitk.GetArrayFromImage(sitk.ReadImage(str(result.folder / "labelsTr/a.nii.gz")))
    np.testing.assert_array_equal(written, np.select([label == 4, label == 9, label == 255], [1, 2, 3], 0))


# Going on


def test_an_interrupted_conversion_goes_on(source, convert, monkeypatch):
    source("a", "b", "c", "d")
    whole = convert(overwrite=True)
    expected = _files(whole.folder, content=True)
    real, calls = raw_dataset.convert_case, []

    def stop_at_the_third(job):
        calls.append(job.case.identifier)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(job)

    monkeypatch.setattr(raw_dataset, "convert_case", stop_at_the_third)
    shutil.rmtree(whole.folder)
    with pytest.raises(KeyboardInterrupt):
        convert()
    assert not (whole.folder / "dataset.json").exists()
    # What a killed process leaves behind must not be taken for a case.
    (whole.folder / "labelsTr" / ".c.nii.gz.ab_12xyz.tmp.nii.gz").write_bytes(b"half")
    monkeypatch.setattr(raw_dataset, "convert_case", lambda job: calls.append(job.case.identifier) or real(job))
    calls.clear()
    result = convert()
    assert calls == ["c", "d"]
    assert not result.failed
    assert _files(whole.folder, content=True) == expected


def test_complete_cases_are_left_alone_and_bad_ones_tried_again(source, convert, miniature, monkeypatch):
    source("a", "b")
    good = (miniature.root / "labels/b.nii.gz").read_bytes()
    (miniature.root / "labels/b.nii.gz").write_bytes(good[:50])
    assert [record.identifier for record in convert().failed] == ["b"]
    (miniature.root / "labels/b.nii.gz").write_bytes(good)
    calls = []
    real = raw_dataset.convert_case
    monkeypatch.setattr(raw_dataset, "convert_case", lambda job: calls.append(job.case.identifier) or real(job))
    assert not convert().failed
    assert not convert().failed
    assert calls == ["b"]


def test_a_removed_file_is_made_again(source, convert):
    source("a", "b")
    folder = convert().folder
    (folder / "labelsTr/a.nii.gz").unlink()
    convert()
    assert (folder / "labelsTr/a.nii.gz").is_file()


def test_foreign_folders_are_refused(source, convert, nnunet_folders, miniature):
    source("a")
    folder = nnunet_folders / "nnUNet_raw" / "Dataset007_Mini"
    folder.mkdir()
    (folder / "precious.txt").write_text("mine")
    with pytest.raises(UserError, match="was not made by this command"):
        convert()
    assert _files(folder) == ["precious.txt"]
    convert(overwrite=True)
    assert "precious.txt" not in _files(folder)
    with pytest.raises(UserError, match="another source or other options"):
        convert(image="images/{case}.nii.gz")
    (nnunet_folders / "nnUNet_raw" / "Dataset007_Other").mkdir()
    with pytest.raises(UserError, match="used by Dataset007_Other"):
        convert()


def test_processes_do_the_same(source, convert, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    source("a", "b", "c")
    folder = convert().folder
    expected = _files(folder, content=True)
    assert not convert(overwrite=True, num_processes=2).failed
    assert _files(folder, content=True) == expected


def test_no_good_case_is_an_error_and_leaves_nothing(source, convert, miniature, nnunet_folders):
    source("a")
    (miniature.root / "labels/a.nii.gz").write_bytes(b"nothing")
    with pytest.raises(UserError, match="none could be converted; the first reason: Expected a complete image"):
        convert()
    assert list((nnunet_folders / "nnUNet_raw").iterdir()) == []


def test_a_dataset_that_was_complete_is_not_deleted_when_no_case_is_good_any_more(source, convert, miniature):
    source("a")
    folder = convert().folder
    (folder / "labelsTr" / "a.nii.gz").unlink()
    (miniature.root / "labels/a.nii.gz").write_bytes(b"nothing")
    with pytest.raises(UserError, match="none could be converted"):
        convert()
    assert (folder / "conversion_report.json").is_file()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"regions": True}, "Expected regions"),
        ({"order": "nobody"}, "'nobody' is none"),
        ({"order": None}, "holds none"),
    ],
)
def test_wrong_classes_are_said_before_anything_is_written(source, convert, options, sentence, nnunet_folders):
    source("a")
    with pytest.raises(UserError, match=sentence):
        convert(**options)
    assert not list((nnunet_folders / "nnUNet_raw").iterdir())


def test_channels_on_different_grids_are_refused(miniature, convert):
    for channel, origin in (("T1", (-20.0, 10.0, 300.0)), ("T2", (-20.0, 10.0, 303.0))):
        miniature.save(f"images/a_{channel}.nii.gz", miniature.image(), origin=origin)
    miniature.save("labels/a.nii.gz", miniature.label(ORDER))
    miniature.text("order.json", ORDER.to_json())
    with pytest.raises(UserError, match="Expected the channel T2 on the grid of the image"):
        convert(image="images/{case}_{channel}.nii.gz", label="labels/{case}.nii.gz", channel_names=("T1", "T2"))


def test_images_may_be_copied_also_by_another_run(source, convert, miniature):
    source("a")
    original = miniature.root / "images/a.nii.gz"
    image = convert().folder / "imagesTr/a_0000.nii.gz"
    assert image.samefile(original)
    assert convert(copy_images=True).placed == {"copy": 1}
    assert not image.samefile(original)
    assert image.read_bytes() == original.read_bytes()


def _refuse(*_, **__):
    raise OSError("no links here")


def test_without_hard_links_there_are_symbolic_ones_and_else_copies(source, convert, miniature, monkeypatch):
    source("a")
    monkeypatch.setattr(os, "link", _refuse)
    image = convert().folder / "imagesTr/a_0000.nii.gz"
    assert image.is_symlink()
    assert image.samefile(miniature.root / "images/a.nii.gz")
    monkeypatch.setattr(os, "symlink", _refuse)
    assert convert(overwrite=True).placed == {"copy": 1}
    assert not image.is_symlink()


def test_copies_stay_in_one_fold(source, convert, miniature):
    names = [f"case{number}" for number in range(10)]
    source(*names)
    for twin in ("case3", "case8"):
        (miniature.root / f"images/{twin}.nii.gz").write_bytes((miniature.root / "images/case0.nii.gz").read_bytes())
    folder = convert().folder
    splits = json.loads((folder / "splits_final.json").read_text())
    assert sorted(name for split in splits for name in split["val"]) == names
    for split in splits:
        assert len({"case0", "case3", "case8"} & set(split["val"])) in (0, 3)


# Overlaps


def _masks_of(folder, record):
    content = json.loads((folder / "dataset.json").read_text())
    label = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / record.label)))
    return dict(decode_masks(label, content["labels"]))


def test_overlapping_masks_become_regions(miniature, convert, verify_integrity, monkeypatch):
    random = np.random.default_rng(5)
    truth = {}
    for case in ("a", "b", "c"):
        miniature.save(f"{case}/ct.nii.gz", miniature.image())
        for name in ("aorta", "lumen", "stent"):
            mask = random.random((12, 14, 16)) < 0.2
            # The last case has no overlap of its own, and still shares the table of the others.
            if case == "c":
                mask &= np.arange(16) % 3 == ("aorta", "lumen", "stent").index(name)
            truth[case, name] = mask
            miniature.save(f"{case}/segmentations/{name}.nii.gz", mask.astype(np.uint8))
    result = convert("masks")
    verify_integrity(result.folder)
    for record in result.converted:
        for name, mask in _masks_of(result.folder, record).items():
            np.testing.assert_array_equal(mask, truth[record.identifier, name])
            assert record.voxels[name] == np.count_nonzero(mask)
    before = _files(result.folder, content=True)
    real, calls = raw_dataset.convert_case, []
    monkeypatch.setattr(raw_dataset, "convert_case", lambda job: calls.append(job.case.identifier) or real(job))
    convert("masks")
    assert calls == []
    assert _files(result.folder, content=True) == before
    # The integers of the others may change with those of a new case.
    for name in ("aorta", "lumen", "stent"):
        miniature.save(f"d/segmentations/{name}.nii.gz", np.ones((12, 14, 16), np.uint8))
    miniature.save("d/ct.nii.gz", miniature.image())
    result = convert("masks")
    assert calls == ["a", "b", "d"]
    for record in result.converted[:3]:
        for name, mask in _masks_of(result.folder, record).items():
            np.testing.assert_array_equal(mask, truth[record.identifier, name])


def test_masks_without_overlap_stay_plain(miniature, convert):
    for case in ("a", "b"):
        miniature.save(f"{case}/ct.nii.gz", miniature.image())
        miniature.masks(f"{case}/segmentations", ORDER)
    content = json.loads((convert("masks").folder / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, **{name: i for i, name in enumerate(sorted(ORDER.labels), start=1)}}
    assert "regions_class_order" not in content


def test_the_last_mask_may_win(miniature, convert):
    ones = np.ones((12, 14, 16), np.uint8)
    miniature.save("a/ct.nii.gz", miniature.image())
    for name in ("first", "second"):
        miniature.save(f"a/segmentations/{name}.nii.gz", ones)
    result = convert("masks", overlaps="last")
    (record,) = result.converted
    assert record.findings[0].kind == "overlapping_masks"
    assert record.voxels == {"first": 0, "second": ones.size}


def test_a_missing_mask_is_refused_unless_accepted(miniature, convert):
    for case in ("a", "b"):
        miniature.save(f"{case}/ct.nii.gz", miniature.image())
        miniature.masks(f"{case}/segmentations", ORDER)
    (miniature.root / "b/segmentations/liver.nii.gz").unlink()
    result = convert("masks")
    assert _reasons(result)["b"].message == "Expected a mask of every class, but liver have none."
    assert not convert("masks", accept=("missing_masks",)).failed


def test_real_overlapping_masks(real_ct_folder, tmp_path, nnunet_folders):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "case").symlink_to(real_ct_folder / "ct_aorta_1p5mm")
    folder = nnunet_folders / "nnUNet_raw" / "Dataset008_Aorta"
    result = convert_dataset(datasets()["masks"].open(tmp_path / "real"), folder, progress=False)
    (record,) = result.converted
    for name, mask in _masks_of(folder, record).items():
        published = sitk.ReadImage(str(real_ct_folder / f"ct_aorta_1p5mm/segmentations/{name}.nii.gz"))
        np.testing.assert_array_equal(mask, sitk.GetArrayFromImage(published) != 0)
    content = json.loads((folder / "dataset.json").read_text())
    assert len(content["labels"]["aorta"]) >= 3


# Real data


def test_the_real_totalsegmentator_layout(real_ct_folder, nnunet_folders, verify_integrity):
    converter = datasets()["totalsegmentator_v2"].open(real_ct_folder / "totalsegmentator_v2_layout")
    folder = nnunet_folders / "nnUNet_raw" / "Dataset009_TotalSegmentator"
    result = convert_dataset(converter, folder, progress=False)
    (record,) = result.converted
    verify_integrity(folder)
    label = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / record.label)))
    v2 = LabelOrder.read("totalsegmentator_v2")
    masks = real_ct_folder / "totalsegmentator_v2_layout/s0001/segmentations"
    present = [name for name, count in record.voxels.items() if count]
    assert len(present) > 20
    for name in present:
        published = sitk.GetArrayFromImage(sitk.ReadImage(str(masks / f"{name}.nii.gz"))) != 0
        np.testing.assert_array_equal(label == v2.value(name), published, err_msg=name)
    for other in ("totalsegmentator_v1", "stunet_totalsegmentator"):
        between = LabelOrder.read(other)
        shared = [v2.value(name) for name in v2.labels if between.find(name)]
        back = between.remap(v2.remap(label, to=between, drop="all"), to=v2)
        np.testing.assert_array_equal(back, np.where(np.isin(label, shared), label, 0))


@pytest.mark.parametrize("name", ["kits21", "msd_brain_tumour", "lits"])
def test_regions_are_nested_and_painted_visibly(name):
    order = LabelOrder.read(name)
    labels, painted = region_labels(order)
    regions = list(labels.items())[1:]
    for value in order.values:
        result = 0
        for (_, values), paint in zip(regions, painted, strict=True):
            result = paint if value in values else result
        assert {region for region, values in regions if result in values} == {
            region for region, values in regions if value in values
        }


def test_regions_are_written_when_asked(miniature, nnunet_folders, verify_integrity):
    miniature.case("data/case_00000/imaging.nii.gz", "data/case_00000/aggregated_MAJ_seg.nii.gz", "kits21")
    folder = nnunet_folders / "nnUNet_raw" / "Dataset010_KiTS21"
    converter = datasets()["kits21"].open(miniature.root, ConversionOptions(regions=True))
    convert_dataset(converter, folder, progress=False)
    verify_integrity(folder)
    content = json.loads((folder / "dataset.json").read_text())
    assert content["labels"]["kidneys"] == [1, 2, 3]
    assert content["labels"]["kidney_tumor"] == [2, 2]
    assert content["regions_class_order"] == [1, 3, 2]


def test_cases_get_names_that_mean_nothing_else_and_a_conversion_goes_on_with_them(
    source, convert, nnunet_folders, verify_integrity, monkeypatch, caplog
):
    names = {
        "x": "x",
        "x_seg": "x_seg_",
        "settings": "settings_",
        "Müller": "Müller",
        "患者": "患者",
        "患者2": "患者2",
        "a b": "a_b_2",
        "a_b": "a_b",
    }
    source(*names)
    folder = nnunet_folders / "nnUNet_raw" / "Dataset007_Mini"
    with monkeypatch.context() as patch:
        patch.setattr(raw_dataset.ConversionResult, "report", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            convert()
    result = convert()
    assert {record.identifier for record in result.converted} == set(names.values())
    assert {file.name for file in (folder / "labelsTr").iterdir()} == {f"{name}.nii.gz" for name in names.values()}
    verify_integrity(folder)
    # Every image is that of its own label map's case.
    for record in result.converted:
        (original,) = [old for old, name in names.items() if name == record.identifier]
        assert record.sources[0].endswith(f"images/{original}.nii.gz")
        assert (folder / record.images[0]).samefile(record.sources[0])
    assert "x_seg -> x_seg_" in caplog.text
    assert "'a b' -> a_b_2" in caplog.text


def test_a_name_that_went_to_another_case_is_not_trusted(source, convert, nnunet_folders):
    mini = source("a b", "a?b")
    assert {record.identifier for record in convert().converted} == {"a_b", "a_b_2"}
    for part in ("images", "labels"):
        (mini.root / part / "a b.nii.gz").rename(mini.root / part / "a_b.nii.gz")
    result = convert()
    files = {record.identifier: record.sources[0].rpartition("/")[2] for record in result.converted}
    assert files == {"a_b": "a_b.nii.gz", "a_b_2": "a?b.nii.gz"}
    (mini.root / "images" / "a?b.nii.gz").unlink()
    (mini.root / "labels" / "a?b.nii.gz").unlink()
    with pytest.raises(UserError, match="a_b_2 is none, or has another name by now"):
        convert()


# Orientation


def _dataset_json(result):
    return json.loads((result.folder / "dataset.json").read_text())


def test_the_orientation_of_all_images_is_noted(source, convert, miniature):
    source()
    for name in "ab":
        miniature.case(f"images/{name}.nii.gz", f"labels/{name}.nii.gz", ORDER, axes="RAS")
    result = convert()
    assert _dataset_json(result)["image_orientation"] == "RAS"
    assert json.loads((result.folder / REPORT).read_text())["cases"]["b"]["orientation"] == "RAS"
    assert convert().orientation == "RAS"


def test_mixed_orientations_are_counted_and_not_noted(source, convert, miniature):
    source("a", "b")
    miniature.case("images/c.nii.gz", "labels/c.nii.gz", ORDER, axes="PIR")
    result = convert()
    assert "image_orientation" not in _dataset_json(result)
    assert json.loads((result.folder / REPORT).read_text())["orientations"] == {"LPS": 2, "PIR": 1}
    sentences = describe_result(datasets()["label_maps"].open(miniature.root), result)
    assert "Images lie differently (2 LPS, 1 PIR)" in sentences
    assert "--orientation RAS" in sentences


@pytest.mark.parametrize("layout", ["label_maps", "masks"])
def test_all_images_and_label_maps_are_turned_to_one_orientation(layout, source, convert, miniature, verify_integrity):
    options = {}
    if layout == "masks":
        options = {"image": "{case}/ct.nii.gz", "label": "{case}/segmentations/{class}.nii.gz"}
    else:
        source()
    for name, axes in {"a": "LPS", "b": "SAR", "c": "RAS"}.items():
        if layout == "label_maps":
            miniature.case(f"images/{name}.nii.gz", f"labels/{name}.nii.gz", ORDER, axes=axes)
            continue
        miniature.save(f"{name}/ct.nii.gz", miniature.image(), axes=axes)
        # Overlaps wait, encoded, until all cases are known.
        label = miniature.label(ORDER)
        for organ, mask in {"body": label > 0, "liver": label == 1}.items():
            miniature.save(f"{name}/segmentations/{organ}.nii.gz", mask.astype(np.uint8), axes=axes)
    plain = convert(layout, **options)
    expected = {
        file.relative_to(plain.folder): sitk.DICOMOrient(sitk.ReadImage(str(file)), "RAS")
        for file in plain.folder.rglob("*.nii.gz")
    }
    with pytest.raises(UserError, match=r"other options \(orientation\)"):
        convert(layout, orientation="RAS", **options)
    result = convert(layout, orientation="RAS", overwrite=True, **options)
    verify_integrity(result.folder)
    assert _dataset_json(result)["image_orientation"] == "RAS"
    assert {**_dataset_json(result), "image_orientation": None} == {**_dataset_json(plain), "image_orientation": None}
    assert [record.placed for record in result.converted] == [["rewritten"], ["rewritten"], ["hard link"]]
    found = {file.relative_to(result.folder): sitk.ReadImage(str(file)) for file in result.folder.rglob("*.nii.gz")}
    assert found.keys() == expected.keys()
    for name, image in found.items():
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(expected[name]))
        for where in ("GetDirection", "GetOrigin", "GetSpacing"):
            assert getattr(image, where)() == pytest.approx(getattr(expected[name], where)(), abs=1e-4)
    assert convert(layout, orientation="RAS", **options).placed == result.placed
