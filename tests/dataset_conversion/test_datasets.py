"""Every converter runs on a miniature of the published layout, and nnU-Net finds nothing wrong with the result."""

import csv
import inspect
import io
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_ext.dataset_conversion.converter import ConversionOptions
from nnunetv2_ext.dataset_conversion.raw_dataset import convert_dataset
from nnunetv2_ext.dataset_conversion.registry import converters, description, summary
from nnunetv2_ext.labels import LabelOrder

MSD = {
    "msd_brain_tumour": 4,
    "msd_heart": 1,
    "msd_liver": 1,
    "msd_hippocampus": 1,
    "msd_prostate": 2,
    "msd_lung": 1,
    "msd_pancreas": 1,
    "msd_hepatic_vessel": 1,
    "msd_spleen": 1,
    "msd_colon": 1,
}
TOTALSEGMENTATOR = {"totalsegmentator_v1": "ct", "totalsegmentator_v2": "ct", "totalsegmentator_mr": "mri"}
SALT_NAMES = "-\nliver\nspleen\nkidney left\nkidney right\nrectum\n"
SALT_PATHS = "-\nbody,liver\nbody,spleen\nbody,kidneys,kidney_left\nbody,kidneys,kidney_right\n-\n"


def _msd(mini, name):
    order = LabelOrder.read(name)
    labels = {"0": "background", **{str(value): key for key, value in order.labels.items()}}
    mini.text("Task99_Mini/dataset.json", {"labels": labels})
    for case in ("a_001", "a_002"):
        mini.save(f"Task99_Mini/imagesTr/{case}.nii.gz", mini.image(channels=MSD[name]))
        mini.save(f"Task99_Mini/labelsTr/{case}.nii.gz", mini.label(order))
    mini.save("Task99_Mini/imagesTs/a_003.nii.gz", mini.image(channels=MSD[name]))
    # Archives made on a Mac hold such files.
    mini.text("Task99_Mini/imagesTr/._a_001.nii.gz", "no image")
    return (2, 1)


def _btcv_abdomen(mini):
    for case in ("0001", "0002"):
        mini.case(
            f"RawData/Training/img/img{case}.nii.gz", f"RawData/Training/label/label{case}.nii.gz", "btcv_abdomen"
        )
    mini.case("RawData/Testing/img/img0061.nii.gz", None, "btcv_abdomen")
    return (2, 1)


def _btcv_cervix(mini):
    folder = "RawData/Training"
    mini.case(f"{folder}/img/0507688-Image.nii.gz", f"{folder}/label/0507688-Mask.nii.gz", "btcv_cervix")
    mini.case("RawData/Testing/img/0507690-Image.nii.gz", None, "btcv_cervix")
    return (1, 1)


def _gibson(mini):
    order = LabelOrder.read("gibson_multi_organ")
    rows = io.StringIO()
    names = ["original_id", "publisher", *(f"extent_{side}" for side in ("left", "right", "ant", "post", "inf", "sup"))]
    writer = csv.writer(rows)
    writer.writerow(names)
    for folder, case in (("Training", "0001"), ("Testing", "0061")):
        label = mini.label(order)
        label[0, 5, 5] = 8  # the aorta is annotated in BTCV images, but not one of the eight classes
        mini.save(f"RawData/{folder}/img/img{case}.nii.gz", mini.image(), axes="RAS")
        mini.save(f"label_btcv_multiorgan/label{case}.nii.gz", label, axes="RAS")
        writer.writerow([case, "BTCV", 1, 14, 0, 12, 0, 10])
    mini.save("RawData/Training/img/img0039.nii.gz", mini.image())  # nobody annotated this one
    mini.dicom("Pancreas-CT/PANCREAS_0002/study/series", mini.image())
    mini.save("label_tcia_multiorgan/label0002.nii.gz", mini.label(order), axes="RAS", origin=(0, 0, 0))
    writer.writerow(["2", "TCIA", 1, 14, 0, 12, 0, 10])
    mini.text("cropping.csv", rows.getvalue())
    return (3, 0)


def _structseg(mini):
    for case in (1, 2):
        mini.case(f"Thoracic_OAR/{case}/data.nii.gz", f"Thoracic_OAR/{case}/label.nii.gz", "structseg_thorax")
    return (2, 0)


def _segthor(mini):
    mini.case("train/Patient_01/Patient_01.nii.gz", "train/Patient_01/GT.nii.gz", "segthor")
    mini.case("test/Patient_41.nii.gz", None, "segthor")
    return (1, 1)


def _nih(mini):
    mini.dicom("Pancreas-CT/PANCREAS_0001/11-24-2015-study/series", mini.image())
    label = mini.label("nih_pancreas_ct")
    # As published: the axes are those of the header, the position is not.
    mini.save("TCIA_pancreas_labels-02-05-2017/label0001.nii.gz", label, axes="LAS", origin=(0, 0, 0))
    return (1, 0)


def _kits19(mini):
    mini.case("data/case_00000/imaging.nii.gz", "data/case_00000/segmentation.nii.gz", "kits19", axes="SPR")
    mini.case("data/case_00210/imaging.nii.gz", None, "kits19")
    return (1, 1)


def _kits21(mini):
    mini.case("data/case_00000/imaging.nii.gz", "data/case_00000/aggregated_MAJ_seg.nii.gz", "kits21")
    return (1, 0)


def _kits23(mini):
    mini.case("dataset/case_00000/imaging.nii.gz", "dataset/case_00000/segmentation.nii.gz", "kits23")
    return (1, 0)


def _amos(mini, first):
    for part, case in (("Tr", first), ("Va", first + 1)):
        mini.case(f"images{part}/amos_{case:04d}.nii.gz", f"labels{part}/amos_{case:04d}.nii.gz", "amos22")
    mini.case(f"imagesTs/amos_{first + 2:04d}.nii.gz", None, "amos22")
    other = 600 if first == 1 else 400
    mini.case(f"imagesTr/amos_{other:04d}.nii.gz", f"labelsTr/amos_{other:04d}.nii.gz", "amos22")
    return (2, 1)


def _totalsegmentator(mini, name):
    mini.text("meta.csv", "image_id;age;split\ns0000;60;train\ns0001;61;val\ns0002;62;test\n")
    for case in ("s0000", "s0001", "s0002"):
        mini.save(f"{case}/{TOTALSEGMENTATOR[name]}.nii.gz", mini.image())
        mini.masks(f"{case}/segmentations", name)
    return (2, 1)


def _abdomenatlas(mini):
    names = {"gallbladder": "gall_bladder", "inferior_vena_cava": "postcava"}
    mini.save("BDMAP_00000001/ct.nii.gz", mini.image())
    mini.masks("BDMAP_00000001/segmentations", "abdomenatlas_1_0", names)
    return (1, 0)


def _flare22(mini):
    folder = "FLARE22Train"
    mini.case(f"{folder}/images/FLARE22_Tr_0001_0000.nii.gz", f"{folder}/labels/FLARE22_Tr_0001.nii.gz", "flare22")
    return (1, 0)


def _word(mini):
    for part, case in (("Tr", "0002"), ("Val", "0001"), ("Ts", "0014")):
        mini.case(f"images{part}/word_{case}.nii.gz", f"labels{part}/word_{case}.nii.gz", "word")
    return (2, 1)


def _ct_org(mini):
    for case in (0, 21):
        mini.save(f"volume-{case}.nii.gz", mini.image())
        # The published label maps are floating-point.
        mini.save(f"labels-{case}.nii.gz", mini.label("ct_org").astype(np.float32))
    return (1, 1)


def _verse20(mini):
    for folder, subject in (("dataset-01training", "500"), ("dataset-02validation", "501"), ("dataset-03test", "502")):
        name = f"sub-verse{subject}"
        mini.case(
            f"{folder}/rawdata/{name}/{name}_dir-ax_ct.nii.gz",
            f"{folder}/derivatives/{name}/{name}_dir-ax_seg-vert_msk.nii.gz",
            "verse20",
        )
    return (2, 1)


def _kipa22(mini):
    mini.case("train/image/70.nii.gz", "train/label/70.nii.gz", "kipa22")
    mini.case("open_test/image/0.nii.gz", None, "kipa22")
    return (1, 1)


def _abdomenct_1k(mini):
    for part, case in (("1", "Case_00001"), ("2", "Case_00400")):
        mini.case(f"AbdomenCT-1K-ImagePart{part}/{case}_0000.nii.gz", f"Mask/{case}.nii.gz", "abdomenct_1k")
    return (2, 0)


def _lits(mini):
    mini.case("Training Batch 1/volume-0.nii", "Training Batch 1/segmentation-0.nii", "lits")
    mini.case("Training Batch 2/volume-28.nii", "Training Batch 2/segmentation-28.nii", "lits")
    mini.case("Test-Data/test-volume-0.nii", None, "lits")
    return (2, 1)


def _luna16(mini):
    series = "1.3.6.1.4.1.14519.5.2.1.6279.6001.109002525524522225658609808059"
    label = mini.label("luna16_lobes")
    label[1, 5, 5], label[2, 5, 5] = 1, 512
    mini.save(f"subset3/{series}.mhd", mini.image())
    mini.save(f"annotations/{series}_LobeSegmentation.nrrd", label)
    mini.save("subset3/1.3.6.1.4.1.nobody.annotated.mhd", mini.image())
    return (1, 0)


def _lctsc(mini):
    order = LabelOrder.read("lctsc")
    rois = {"spinal_cord": "SpinalCord", "lung_right": "Lung_R", "lung_left": "Lung_L", "heart": "Heart"}
    for patient in ("LCTSC-Train-S1-001", "LCTSC-Test-S1-101"):
        label = mini.label(order)
        mini.dicom(f"LCTSC/{patient}/study/1-CT", mini.image())
        contours = {
            rois.get(name, "Esophagus"): mini.contours_of(label == value) for name, value in order.labels.items()
        }
        mini.rtstruct(f"LCTSC/{patient}/study/2-RTSTRUCT/1-1.dcm", contours)
    return (1, 1)


def _saros(mini, file, name):
    order = LabelOrder.read(name)
    rows = ["id,patient_id,split"]
    for case, split in (("case_000", "fold-1"), ("case_001", "fold-2"), ("case_002", "test")):
        label = mini.label(order)
        label[1::2] = 255
        mini.save(f"{case}/image.nii.gz", mini.image())
        mini.save(f"{case}/{file}.nii.gz", label)
        rows.append(f"{case},x,{split}")
    mini.text("Segmentation-Info_09-29-2023.csv", "\n".join(rows) + "\n")
    return (2, 1)


def _salt(mini):
    mini.text("labels.txt", SALT_NAMES)
    mini.text("tree-labels.txt", SALT_PATHS)
    order = LabelOrder("salt", {"liver": 1, "spleen": 2, "kidney_left": 3, "kidney_right": 4, "rectum": 5})
    for part in ("train", "val", "test"):
        label = mini.label(order)
        label[5] = 255
        mini.save(f"{part}/images/{part}1.nii.gz", mini.image())
        mini.save(f"{part}/labels/{part}1.nii.gz", label)
    return (2, 1)


def _monai(mini):
    order = LabelOrder("mine", {"liver": 1, "spleen": 2})
    for case in "abc":
        mini.case(f"data/{case}/image.nii.gz", f"data/{case}/label.nii.gz", order)
    entries = [{"image": f"data/{case}/image.nii.gz", "label": f"data/{case}/label.nii.gz"} for case in "ab"]
    mini.text(
        "datalist.json",
        {
            "labels": {"0": "background", "1": "liver", "2": "spleen"},
            "training": [{**entry, "fold": fold} for fold, entry in enumerate(entries)],
            "testing": [{"image": "data/c/image.nii.gz"}],
        },
    )
    return (2, 1)


def _label_maps(mini):
    order = LabelOrder("mine", {"liver": 3, "spleen": 7})
    for case in "ab":
        mini.case(f"images/{case}.nii.gz", f"labels/{case}.nii.gz", order)
    mini.text("order.json", order.to_json())
    return (2, 0)


def _masks(mini):
    order = LabelOrder("mine", {"aorta": 1, "liver": 2})
    for case in "ab":
        mini.save(f"{case}/ct.nii.gz", mini.image())
        mini.masks(f"{case}/segmentations", order)
    return (2, 0)


BUILDERS = {
    **{name: lambda mini, name=name: _msd(mini, name) for name in MSD},
    **{name: lambda mini, name=name: _totalsegmentator(mini, name) for name in TOTALSEGMENTATOR},
    "btcv_abdomen": _btcv_abdomen,
    "btcv_cervix": _btcv_cervix,
    "gibson_multi_organ": _gibson,
    "structseg_thorax": _structseg,
    "segthor": _segthor,
    "nih_pancreas_ct": _nih,
    "kits19": _kits19,
    "kits21": _kits21,
    "kits23": _kits23,
    "amos22_ct": lambda mini: _amos(mini, 1),
    "amos22_mr": lambda mini: _amos(mini, 507),
    "abdomenatlas_1_0": _abdomenatlas,
    "flare22": _flare22,
    "word": _word,
    "ct_org": _ct_org,
    "verse20": _verse20,
    "kipa22": _kipa22,
    "abdomenct_1k": _abdomenct_1k,
    "lits": _lits,
    "luna16_lobes": _luna16,
    "lctsc": _lctsc,
    "saros": lambda mini: _saros(mini, "body-regions", "saros"),
    "saros_body_parts": lambda mini: _saros(mini, "body-parts", "saros_body_parts"),
    "salt": _salt,
    "monai_datalist": _monai,
    "label_maps": _label_maps,
    "masks": _masks,
}


def test_every_converter_has_a_miniature():
    assert set(BUILDERS) == set(converters())


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_converts_the_published_layout(name, miniature, tmp_path, nnunet_folders, verify_integrity):
    training, test = BUILDERS[name](miniature)
    order = str(miniature.root / "order.json") if name == "label_maps" else None
    converter = converters()[name](miniature.root, ConversionOptions(order=order))
    folder = nnunet_folders / "nnUNet_raw" / "Dataset123_Mini"
    result = convert_dataset(converter, folder, progress=False)
    assert [(record.identifier, record.findings) for record in result.failed] == []
    assert len([record for record in result.converted if record.split != "test"]) == training
    assert len([record for record in result.converted if record.split == "test"]) == test
    verify_integrity(folder)
    content = json.loads((folder / "dataset.json").read_text())
    assert content["licence"] or name in ("salt", "monai_datalist", "label_maps", "masks")
    assert not (folder / ".conversion").exists()
    _compare_with_the_phantom(name, miniature, folder, content, result)


def test_the_documentation_shows_every_layout():
    text = (Path(__file__).parents[2] / "docs" / "convert.md").read_text()
    for name, converter in converters().items():
        assert f"`{name}`" in text
        block = description(converter).split("::\n\n", 1)[1]
        for line in block.splitlines():
            if line.startswith("    "):
                assert line.strip() in text, (name, line)


def _compare_with_the_phantom(name, miniature, folder, content, result):
    """Every class has its two voxels, at the position (in mm) that the phantom gave it."""
    source = converters()[name](miniature.root, ConversionOptions(order=_order_file(name, miniature))).order
    if name == "salt":
        source = LabelOrder("salt", {"liver": 1, "spleen": 2, "kidney_left": 3, "kidney_right": 4, "rectum": 5})
    phantom = miniature.label(source)
    for record in result.converted:
        if record.label is None:
            continue
        label = sitk.ReadImage(str(folder / record.label))
        array = sitk.GetArrayFromImage(label)
        for class_name, value in source.labels.items():
            if class_name == "rectum" and name == "salt":
                continue
            expected = np.argwhere(phantom == value)
            if name.startswith("saros"):
                expected = expected[expected[:, 0] % 2 == 0]
            if name == "salt":
                expected = expected[expected[:, 0] != 5]
            found = np.argwhere(array == content["labels"][class_name])
            assert _millimetres(found, label) == _phantom_millimetres(expected), (record.identifier, class_name)
            assert record.voxels[class_name] == len(expected)


def _order_file(name, miniature):
    return str(miniature.root / "order.json") if name == "label_maps" else None


def _millimetres(indices, image):
    points = [image.TransformIndexToPhysicalPoint([int(i) for i in reversed(index)]) for index in indices]
    return sorted(tuple(round(value, 2) for value in point) for point in points)


def _phantom_millimetres(indices):
    points = indices[:, ::-1] * (1.5, 1.25, 3.0) + (-20.0, 10.0, 300.0)
    return sorted(tuple(round(float(value), 2) for value in point) for point in points)


@pytest.mark.parametrize(
    ("name", "folds"), [("word", 1), ("totalsegmentator_mr", 1), ("saros", 2), ("monai_datalist", 2)]
)
def test_writes_the_splits_of_the_source(name, folds, miniature, nnunet_folders):
    BUILDERS[name](miniature)
    folder = nnunet_folders / "nnUNet_raw" / "Dataset123_Mini"
    convert_dataset(converters()[name](miniature.root), folder, progress=False)
    splits = json.loads((folder / "splits_final.json").read_text())
    assert len(splits) == folds
    for split in splits:
        assert len(split["val"]) == 1
        assert not set(split["train"]) & set(split["val"])
    preprocessed = nnunet_folders / "nnUNet_preprocessed" / "Dataset123_Mini" / "splits_final.json"
    assert json.loads(preprocessed.read_text()) == splits


def test_a_salt_folder_keeps_its_tree(miniature, nnunet_folders):
    from nnunetv2_ext.labels.label_tree import LabelTree

    _salt(miniature)
    folder = nnunet_folders / "nnUNet_raw" / "Dataset123_Mini"
    convert_dataset(converters()["salt"](miniature.root), folder, progress=False)
    content = json.loads((folder / "dataset.json").read_text())
    tree = LabelTree.from_dataset_json(content)
    assert tree.path("kidney_left") == ("body", "kidneys", "kidney_left")
    assert content["labels"]["ignore"] == len(tree)
    (source,) = content["partial_labels"].values()
    assert source["classes"] == ["liver", "spleen", "kidney_left", "kidney_right"]
    assert source["cases"] == ["train1", "val1"]


@pytest.mark.parametrize("dataset", ["ctorg", "flare22", "lctsc", "luna16lobes", "saros", "saros+totalseg", "word"])
def test_the_published_salt_labels_convert(dataset, reference_folder, miniature, nnunet_folders, verify_integrity):
    from nnunetv2_ext.labels.label_tree import LabelTree

    names, paths = (
        (reference_folder / "salt" / dataset / f).read_text().splitlines() for f in ("labels.txt", "tree-labels.txt")
    )
    miniature.text("labels.txt", "\n".join(names) + "\n")
    miniature.text("tree-labels.txt", "\n".join(paths) + "\n")
    label = np.zeros((12, 14, 16), np.uint8)
    label.reshape(-1)[: len(names)] = [value if name != "-" else 0 for value, name in enumerate(names)]
    label[-1] = 255
    miniature.save("test/images/a.nii.gz", miniature.image())
    miniature.save("train/images/b.nii.gz", miniature.image())
    for file in ("test/labels/a.nii.gz", "train/labels/b.nii.gz"):
        miniature.save(file, label)
    folder = nnunet_folders / "nnUNet_raw" / "Dataset123_Mini"
    result = convert_dataset(
        converters()["salt"](miniature.root, ConversionOptions(accept=("mirrored",))), folder, progress=False
    )
    verify_integrity(folder)
    content = json.loads((folder / "dataset.json").read_text())
    tree = LabelTree.from_dataset_json(content)
    written = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / result.converted[0].label))).reshape(-1)
    for value, (name, path) in enumerate(zip(names, paths, strict=True)):
        node = path.split(",")[-1] if name != "-" and path not in ("-", "") else "background"
        if node == "other":
            node = f"{path.split(',')[-2]}_other"
        if name != "-" and path in ("-", "") and "background" in paths:
            # Where the background is annotated, a voxel that belongs to no node contradicts it.
            assert written[value] == len(tree)
        else:
            assert tree.names[written[value]] == node
    assert (written[-224:] == len(tree)).all()


def test_gibson_is_cut_to_its_box(miniature, nnunet_folders):
    _gibson(miniature)
    folder = nnunet_folders / "nnUNet_raw" / "Dataset123_Mini"
    result = convert_dataset(converters()["gibson_multi_organ"](miniature.root), folder, progress=False)
    assert {tuple(record.shape) for record in result.converted} == {(11, 13, 14)}
    kinds = {record.identifier: {finding.kind for finding in record.findings} for record in result.converted}
    assert kinds["btcv_0001"] == {"values_rewritten"}
    assert kinds["tcia_0002"] == {"label_placed"}


def test_gibson_refuses_a_box_beside_the_annotation(miniature, nnunet_folders):
    _gibson(miniature)
    table = miniature.root / "cropping.csv"
    table.write_text(table.read_text().replace("0061,BTCV,1,14,0,12,0,10", "0061,BTCV,1,14,9,12,0,10"))
    folder = nnunet_folders / "nnUNet_raw" / "Dataset123_Mini"
    result = convert_dataset(converters()["gibson_multi_organ"](miniature.root), folder, progress=False)
    (failed,) = result.failed
    assert failed.identifier == "btcv_0061"
    assert "inside the crop" in failed.findings[-1].message


def test_gibson_names_labels_without_image_once(miniature, nnunet_folders):
    _gibson(miniature)
    miniature.save("label_btcv_multiorgan/label0070.nii.gz", miniature.label("gibson_multi_organ"))
    folder = nnunet_folders / "nnUNet_raw" / "Dataset123_Mini"
    result = convert_dataset(converters()["gibson_multi_organ"](miniature.root), folder, progress=False)
    assert [record.identifier for record in result.failed] == ["btcv_0070"]
    assert "Expected an image for the label" in result.failed[0].findings[-1].message
    assert len(result.converted) == 3


def test_the_tasks_of_the_decathlon_are_told_apart(miniature):
    from nnunetv2_ext.utilities.errors import UserError

    _msd(miniature, "msd_liver")
    with pytest.raises(UserError, match="this is another task"):
        converters()["msd_spleen"](miniature.root).cases()


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_says_what_it_expects(name):
    assert summary(converters()[name])
    assert "Expects" in description(converters()[name])
    assert "::" in description(converters()[name])
    lines = len(inspect.getsource(converters()[name]).splitlines())
    assert lines < 100


def test_the_example_of_the_documentation_converts(miniature, nnunet_folders, verify_integrity):
    text = (Path(__file__).parents[2] / "docs" / "extend.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    assert len(code.splitlines()) <= 40
    names = {"__name__": "example"}
    exec(code, names)
    miniature.case("train/P001/image.nii.gz", "train/P001/label.nii.gz", "segthor")
    miniature.case("test/P101/image.nii.gz", None, "segthor")
    folder = nnunet_folders / "nnUNet_raw" / "Dataset123_Mini"
    result = convert_dataset(names["ThoraxChallenge"](miniature.root), folder, progress=False)
    assert [record.split for record in result.converted] == ["train", "test"]
    verify_integrity(folder)


@pytest.mark.parametrize("name", ["label_maps", "masks", "monai_datalist", "salt", "segthor"])
def test_the_commands_of_the_documentation_run(name, miniature, nnunet_folders, capsys):
    from nnunetv2_ext.cli.convert_dataset import main

    BUILDERS[name](miniature)
    paths = {word: str(miniature.root / word) for word in ("order.json", "datalist.json")} | {
        "SOURCE": str(miniature.root)
    }
    text = (Path(__file__).parents[2] / "docs" / "convert.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith(f"nnUNetv2_ext_convert_dataset {name} ")]
    assert lines
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        if "-np" in words:
            words[words.index("-np") + 1] = "1"
        assert main([paths.get(word, word) for word in words]) == 0
    (folder,) = (nnunet_folders / "nnUNet_raw").iterdir()
    assert json.loads((folder / "dataset.json").read_text())["numTraining"] >= 1


def test_the_command_for_label_orders_runs(miniature, tmp_path):
    from nnunetv2_ext.cli.remap_labels import main

    miniature.save("LABELS/a.nii.gz", miniature.label("totalsegmentator_v2"))
    text = (Path(__file__).parents[2] / "docs" / "labels.md").read_text()
    (line,) = (line for line in text.splitlines() if line.startswith("nnUNetv2_ext_remap_labels"))
    paths = {"LABELS": str(miniature.root / "LABELS"), "OUTPUT": str(tmp_path / "OUTPUT")}
    assert main([paths.get(word, word) for word in shlex.split(line)[1:]]) == 0
    assert (tmp_path / "OUTPUT" / "a.nii.gz").is_file()
