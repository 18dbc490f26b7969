"""Files of another form than expected end in a sentence, whatever kind of file and whichever command reads it.

A new reader joins by one line in `READERS`.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnunetv2_ext.dataset_conversion.registry import datasets

LABELS = {"background": 0, "liver": 1, "spleen": 2}
DATASET = {"channel_names": {"0": "CT"}, "labels": LABELS, "numTraining": 2, "file_ending": ".nii.gz"}
COLLECTION = DATASET | {
    "labels": {"background": 0, "A/liver": [1, 1], "A/spleen": [2, 2]},
    "regions_class_order": [1, 2],
    "partial_labels": {
        "A": {"classes": ["A/liver", "A/spleen"], "cases": ["a", "b"], "exceptions": {"b": ["A/liver"]}}
    },
}
TREE = DATASET | {
    "labels": {"background": 0, "liver": 1, "spleen": 2},
    "label_tree": {"background": {}, "liver": {}, "spleen": {}},
}
ORDER = {
    "name": "order",
    "labels": {"liver": 1, "spleen": 2},
    "aliases": {"liver": ["hepar"]},
    "left_right_pairs": [],
    "regions": {"both": ["liver", "spleen"]},
    "colors": {"liver": [255, 0, 0]},
}
MAPPING = {
    "name": "mapping",
    "description": "-",
    "source": "-",
    "target_order": "{root}/order.json",
    "source_order": "{root}/order.json",
    "classes": [{"name": "liver", "target": ["liver"], "source": ["liver"]}],
    "excluded": {"spleen": 2},
}
DATALIST = {
    "labels": {"0": "background", "1": "liver", "2": "spleen"},
    "training": [
        {"image": "maps/a.nii.gz", "label": "maps/a.nii.gz", "fold": 0},
        {"image": ["maps/b.nii.gz"], "label": "maps/b.nii.gz", "fold": 1},
    ],
    "test": ["maps2/c.nii.gz"],
}
FINGERPRINT = {
    "shapes_after_crop": [[8, 10, 9]] * 2,
    "spacings": [[1.5, 1.0, 1.0]] * 2,
    "foreground_intensity_properties_per_channel": {
        "0": dict.fromkeys(("mean", "median", "std", "min", "max", "percentile_00_5", "percentile_99_5"), 1.0)
    },
    "median_relative_size_after_cropping": 1.0,
}
SPLITS = [{"train": ["case_0", "case_1", "case_2", "case_3", "case_4"], "val": ["case_5"]}]


@dataclass(frozen=True)
class Reader:
    """A kind of file and a command that reads it.

    Attributes:
        file: Where it lies in the folder of `world`.
        command: ``"predict"`` for ``nnunetv2_ext.cli.predict``.
        argv: Its arguments; ``{root}`` is the folder.
    """

    file: str
    command: str
    argv: str

    def __str__(self) -> str:
        return f"{self.file} read by {self.command}"


PREDICT = "-i {root}/images -o {root}/out -m {root}/%s -f 0 -device cpu -npp 0 -nps 0 --quiet"
PLAN = "-d 1 -t %s --name new --quiet"
IMPORT = "{root}/model -d Dataset009_New"
CONVERT = "%s -i {root}/%s -d 9 -n New -np 1 --quiet"
EVALUATE = "-gt {root}/maps -pred {root}/maps2 -np 1 -o {root}/out"
REMAP = "-i {root}/maps -o {root}/out -np 1 --from %s --to %s"

READERS = [
    Reader("model/plans.json", "predict", PREDICT % "model"),
    Reader("model/dataset.json", "predict", PREDICT % "model"),
    Reader("regions/dataset.json", "predict", PREDICT % "regions" + " --outputs per_source"),
    Reader("tree/dataset.json", "predict", PREDICT % "tree" + " --level 1"),
    Reader("model/fold_0/checkpoint_final.pth", "predict", PREDICT % "model"),
    Reader("bundle/preprocessing_profile.json", "predict", PREDICT % "bundle"),
    Reader("model/plans.json", "export", "-m {root}/model -o {root}/model.pt2 --format torch_export"),
    Reader("model/plans.json", "import_weights", IMPORT),
    Reader("model/dataset.json", "import_weights", IMPORT),
    Reader("model/fold_0/checkpoint_final.pth", "import_weights", IMPORT),
    Reader("order.json", "import_weights", IMPORT + " --labels {root}/order.json"),
    Reader("nnUNet_raw/Dataset001_Organs/dataset.json", "plan", PLAN % "stunet_ct"),
    Reader("nnUNet_preprocessed/Dataset001_Organs/dataset_fingerprint.json", "plan", PLAN % "stunet_ct"),
    Reader("model/plans.json", "plan", PLAN % "{root}/model/plans.json"),
    Reader("template.json", "plan", PLAN % "{root}/template.json" + " -c 2d"),
    Reader("nnUNet_raw/Dataset001_Organs/dataset.json", "merge_datasets", "1 -d 9 -n New -np 1 --quiet"),
    Reader("nnUNet_raw/Dataset002_Collection/dataset.json", "merge_datasets", "2 -d 9 -n New -np 1 --quiet"),
    Reader("exceptions.json", "merge_datasets", "1 -d 9 -n New -np 1 --quiet --exceptions {root}/exceptions.json"),
    Reader("datalist.json", "convert_dataset", CONVERT % ("monai_datalist", "datalist.json")),
    Reader("order.json", "convert_dataset", CONVERT % ("monai_datalist", "datalist.json --order {root}/order.json")),
    Reader("heart/dataset.json", "convert_dataset", CONVERT % ("msd_heart", "heart")),
    Reader("nnUNet_raw/Dataset003_Half/.conversion/settings.json", "convert_dataset",
           "monai_datalist -i {root}/datalist.json -d 3 -n Half -np 1 --quiet"),
    Reader("nnUNet_raw/Dataset003_Half/.conversion/a.json", "convert_dataset",
           "monai_datalist -i {root}/datalist.json -d 3 -n Half -np 1 --quiet"),
    Reader("order.json", "remap_labels", REMAP % ("{root}/order.json", "{root}/order.json")),
    Reader("maps/dataset.json", "remap_labels", REMAP % ("{root}/maps", "{root}/order.json")),
    Reader("maps/dataset.json", "evaluate", EVALUATE),
    Reader("maps2/labels.json", "evaluate", EVALUATE),
    Reader("tree/dataset.json", "evaluate", EVALUATE + " -djfile {root}/tree/dataset.json"),
    Reader("regions/dataset.json", "evaluate", EVALUATE + " -djfile {root}/regions/dataset.json"),
    Reader("mapping.json", "evaluate", EVALUATE + " --mapping {root}/mapping.json"),
    Reader("order.json", "evaluate", EVALUATE + " --order {root}/order.json"),
    Reader("tree.json", "info", "tree {root}/tree.json"),
    Reader("tree/dataset.json", "info", "tree {root}/tree/dataset.json"),
]  # fmt: skip
TEXTS = [
    Reader("salt/labels.txt", "convert_dataset", CONVERT % ("salt", "salt")),
    Reader("salt/tree-labels.txt", "convert_dataset", CONVERT % ("salt", "salt")),
    Reader("saros/Segmentation-Info.csv", "convert_dataset", CONVERT % ("saros", "saros")),
    Reader("gibson/cropping.csv", "convert_dataset", CONVERT % ("gibson_multi_organ", "gibson")),
    Reader("total/meta.csv", "convert_dataset", CONVERT % ("totalsegmentator_v2", "total") + " --accept missing_masks"),
]

#: What takes the place of a value in a file.
STRANGE = [5, -1, 0, 1e9, 10**9, 1.5, math.nan, math.inf, True, None, "abc", "", [], {}, [[["a"]]], [5], [None],
           ["abc"], {"a": {"b": 1}}, {"0": None}]  # fmt: skip

#: What takes the place of a whole JSON file.
NO_JSON = {
    "nothing": b"",
    "a word": b"abc",
    "cut short": b'{"labels": {"background": 0,',
    "nested deeply": b"[" * 100_000,
    "nested and closed": b'{"labels":' * 5000 + b"0" + b"}" * 5000,
    "no text": b"\xff\xfe\x00",
    "null": b"null",
    "a number": b"5",
    "a list": b"[]",
    "a list of numbers": b"[1, 2]",
    "an empty object": b"{}",
    "an object of numbers": b'{"a": 5}',
    "a huge number": b"9" * 5000,
    "half a character": b'{"labels": {"\\ud800": 1}}',
}


@pytest.fixture(scope="session")
def world(tmp_path_factory, make_model_folder, write_image) -> Path:
    """A folder with a valid file of every kind."""
    root = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)

    def images(*files: str, values: int = 3) -> None:
        for file in files:
            write_image(rng.integers(0, values, (8, 10, 9)).astype(np.uint8), root / file)

    def write(content: Any, file: str) -> None:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(content if isinstance(content, str) else json.dumps(content))

    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (root / variable).mkdir()
    make_model_folder(root / "model", dataset=DATASET)
    make_model_folder(root / "regions", dataset=COLLECTION)
    make_model_folder(root / "tree", dataset=TREE)
    make_model_folder(root / "bundle", dataset=DATASET)
    profile = {
        "orientation": "RAS", "spacing": [1.5, 1.5, 1.5], "window_size": [8, 16, 16], "overlap": 0.25,
        "intensity": [{"name": "normalize_nonzero"}, {"name": "scale", "minimum": -1.0, "maximum": 1.0},
                      {"name": "clip_and_scale", "from": [-57.0, 164.0], "to": [0.0, 1.0]}],
        "blend": "gaussian", "padding": "replicate", "inversion": "nearest_labels",
    }  # fmt: skip
    write(profile, "bundle/preprocessing_profile.json")
    images("images/case_0000.nii.gz")
    for name, content in (("Dataset001_Organs", DATASET), ("Dataset002_Collection", COLLECTION)):
        images(*(f"nnUNet_raw/{name}/imagesTr/{case}_0000.nii.gz" for case in "ab"))
        images(*(f"nnUNet_raw/{name}/labelsTr/{case}.nii.gz" for case in "ab"))
        write(content, f"nnUNet_raw/{name}/dataset.json")
    write(FINGERPRINT, "nnUNet_preprocessed/Dataset001_Organs/dataset_fingerprint.json")
    images("maps/a.nii.gz", "maps/b.nii.gz", "maps2/a.nii.gz", "maps2/b.nii.gz", "maps2/c.nii.gz")
    write(DATASET, "maps/dataset.json")
    write({"labels": LABELS}, "maps2/labels.json")
    write(ORDER, "order.json")
    write(MAPPING | {key: str(root / "order.json") for key in ("target_order", "source_order")}, "mapping.json")
    write({"background": {}, "body": {"bones": {"rib": {}, "hip": None}, "body_other": {}}}, "tree.json")
    template = json.loads((root / "model/plans.json").read_text())
    write({"configurations": template["configurations"], "transpose_forward": [0, 1, 2]}, "template.json")
    write({"Organs/a": ["liver"]}, "exceptions.json")
    write(DATALIST, "datalist.json")
    images("heart/imagesTr/a.nii.gz", "heart/labelsTr/a.nii.gz", values=2)
    write({"labels": {"0": "background", "1": "left atrium"}}, "heart/dataset.json")
    half = datasets()["monai_datalist"].open(root / "datalist.json")
    write(half.settings(), "nnUNet_raw/Dataset003_Half/.conversion/settings.json")
    record = {
        "identifier": "a", "split": "train", "fold": 0, "sources": ["maps/a.nii.gz"], "images": ["a_0000.nii.gz"],
        "stamp": "", "placed": ["copy"], "label": "labelsTr/a.nii.gz", "shape": [8, 10, 9], "spacing": [1.0, 1.0, 1.0],
        "voxels": {"liver": 5}, "combinations": [[[0], 5]], "failed": False,
        "fingerprint": {"voxel_hash": "a", "shape": [8, 10, 9], "statistics": [1.0, 2.0]},
        "findings": [{"kind": "axes_mended", "message": "-"}],
    }  # fmt: skip
    write(record, "nnUNet_raw/Dataset003_Half/.conversion/a.json")
    write("\n".join(("background", "liver", "spleen")), "salt/labels.txt")
    write("\n".join(("background", "body,liver", "body,spleen")), "salt/tree-labels.txt")
    images("salt/train/images/a.nii.gz", "salt/train/labels/a.nii.gz")
    images("saros/case_000/image.nii.gz", "saros/case_000/body-regions.nii.gz")
    write("id,patient_id,split\ncase_000,x,fold-1\n", "saros/Segmentation-Info.csv")
    images("gibson/RawData/Training/img/img0001.nii.gz", "gibson/label_btcv_multiorgan/label0001.nii.gz")
    names = ["original_id", "publisher", *(f"extent_{side}" for side in ("left", "right", "ant", "post", "inf", "sup"))]
    write(",".join(names) + "\n0001,BTCV,0,9,0,10,0,8\n", "gibson/cropping.csv")
    images("total/s0001/ct.nii.gz", "total/s0001/segmentations/liver.nii.gz", values=2)
    write("image_id;split\ns0001;train\n", "total/meta.csv")
    return root


@pytest.fixture(scope="session")
def write_image() -> Callable[[np.ndarray, Path], None]:
    """Writes an array (z, y, x)."""
    import SimpleITK

    def write(array: np.ndarray, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(file))

    return write


@pytest.fixture
def run(world, tmp_path_factory, capfd, monkeypatch, threads_instead_of_processes) -> Callable[..., tuple[int, str]]:
    """``run(reader, change)``: alters the reader's file in a copy of `world` and runs the command on it."""

    def run_reader(reader: Reader, change: Callable[[Path], None], source: Path = world) -> tuple[int, str]:
        root = tmp_path_factory.mktemp("copy") / "root"
        shutil.copytree(source, root, symlinks=True)
        for file in (root / "mapping.json", root / "nnUNet_raw/Dataset003_Half/.conversion/settings.json"):
            if file.is_file():
                file.write_text(file.read_text().replace(str(source), str(root)))
        for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            monkeypatch.setenv(variable, str(root / variable))
        change(root / reader.file)
        capfd.readouterr()
        try:
            code = importlib.import_module(f"nnunetv2_ext.cli.{reader.command}").main(
                [argument.format(root=root) for argument in reader.argv.split()]
            )
        except SystemExit as end:
            code = end.code
        captured = capfd.readouterr()
        shutil.rmtree(root.parent)
        return code, captured.err + captured.out

    return run_reader


def assert_told(code: int, output: str, reader: Reader, *, may_work: bool = False) -> None:
    """The command has refused the file in one sentence that names it, or has listed it as a failure of a batch."""
    assert code in ((0, 1, 2) if may_work else (1, 2)), output
    assert "Traceback" not in output, output
    # Where entries contradict each other, the sentence names these; some are only noticed when the network runs.
    named = (*Path(reader.file).parts[-3:], "in the plans do not fit")
    assert may_work or any(part in output for part in named), output
    assert max(map(len, output.splitlines()), default=0) < 2000, output


@pytest.mark.parametrize("reader", [*READERS, *TEXTS], ids=str)
def test_the_files_as_they_should_be(run, reader):
    code, output = run(reader, lambda file: None)
    assert code == 0, output
    assert "Traceback" not in output, output


@pytest.mark.parametrize("content", NO_JSON.values(), ids=NO_JSON)
@pytest.mark.parametrize("reader", [reader for reader in READERS if reader.file.endswith(".json")], ids=str)
def test_what_is_no_json_of_this_kind(run, reader, content):
    # No exceptions are none; a mark of a byte order is no reason to refuse a file.
    may_work = reader.file == "exceptions.json" and content == b"{}"
    code, output = run(reader, lambda file: file.write_bytes(content))
    assert_told(code, output, reader, may_work=may_work)


@pytest.mark.parametrize("reader", [reader for reader in READERS if reader.file.endswith(".json")], ids=str)
def test_a_folder_in_place_of_a_file(run, reader):
    def change(file: Path) -> None:
        file.unlink()
        file.mkdir()

    code, output = run(reader, change)
    # Files that may be missing are taken for missing.
    assert code in (0, 1, 2)
    assert "Traceback" not in output, output


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff\xfe\x00", b"a,b\n1,2,3\n", b"a;b\n\0;2\n", b",,\n,,\n" * 50])
@pytest.mark.parametrize("reader", TEXTS, ids=str)
def test_tables_and_lists_of_another_form(run, reader, content):
    code, output = run(reader, lambda file: file.write_bytes(content))
    assert code in (0, 1, 2)
    assert "Traceback" not in output, output


def places(content: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a value can be replaced by another."""
    yield above
    parts = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for name, part in parts:
        yield from places(part, (*above, name))


def altered(content: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value in one place; an entry that is to be ``Ellipsis`` is removed."""
    if not place:
        return content if value is ... else value
    content = deepcopy(content)
    inner = content
    for name in place[:-1]:
        inner = inner[name]
    if value is ...:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return content


def read(file: Path) -> Any:
    """The content of a file without the weights."""
    if file.suffix == ".json":
        return json.loads(file.read_text(encoding="utf-8"))
    import torch

    return {name: value for name, value in torch.load(file).items() if name != "network_weights"}


def write(content: Any, file: Path) -> None:
    """Writes what `read` gave, altered."""
    if file.suffix == ".json":
        file.write_text(json.dumps(content), encoding="utf-8")
        return
    import torch

    weights = torch.load(file)["network_weights"]
    torch.save({"network_weights": weights} | content if isinstance(content, dict) else content, file)


@pytest.mark.parametrize("reader", READERS, ids=str)
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_one_value_of_a_file_is_something_else(run, world, reader, data):
    content = read(world / reader.file)
    place = data.draw(st.sampled_from(list(places(content))))
    value = data.draw(st.sampled_from([*STRANGE, ...]))
    code, output = run(reader, lambda file: write(altered(content, place, value), file))
    assert_told(code, output, reader, may_work=True)


def _set(*place: Any, to: Any) -> Callable[[Any], Any]:
    return lambda content: altered(content, place, to)


FULLRES = ("configurations", "3d_fullres")
ARGUMENTS = (*FULLRES, "architecture", "arch_kwargs")


@pytest.mark.parametrize(
    ("file", "change", "place"),
    [
        ("model/dataset.json", _set("labels", to=5), "labels"),
        ("model/dataset.json", _set("labels", "liver", to=10**9), "labels.liver"),
        ("model/dataset.json", _set("labels", "liver", to=-1), "labels.liver"),
        ("model/dataset.json", _set("labels", to={f"c{value}": value for value in range(10**6)}), "labels"),
        ("model/dataset.json", _set("channel_names", to=5), "channel_names"),
        ("regions/dataset.json", _set("regions_class_order", to=5), "regions_class_order"),
        ("tree/dataset.json", _set("label_tree", "liver", to=5), "label_tree.liver"),
        ("model/plans.json", _set(*FULLRES, "patch_size", to="abc"), "patch_size"),
        ("model/plans.json", _set(*FULLRES, "spacing", to=[0, 1, 1]), "spacing[0]"),
        ("model/plans.json", _set(*FULLRES, "inherits_from", to="3d_fullres"), "inherit from each other"),
        ("model/plans.json", _set(*FULLRES, "inherits_from", to="nowhere"), "'nowhere'"),
        ("model/plans.json", _set(*ARGUMENTS, "n_stages", to=10**9), "n_stages"),
        ("model/plans.json", _set(*ARGUMENTS, "features_per_stage", to=[10**9, 1]), "features_per_stage[0]"),
        ("model/plans.json", _set(*ARGUMENTS, "strides", 0, to=[1, 1]), "2 in strides[0]"),
        ("model/plans.json", _set("transpose_forward", to=[0, 0, 1]), "transpose_forward"),
        ("model/fold_0/checkpoint_final.pth", _set("init_args", to=5), "init_args"),
        ("model/fold_0/checkpoint_final.pth", _set("trainer_name", to="base"), "base"),
        ("model/fold_0/checkpoint_final.pth", _set("inference_allowed_mirroring_axes", to="abc"), "mirroring_axes"),
        ("model/fold_0/checkpoint_final.pth", _set("inference_allowed_mirroring_axes", to=[7]), "mirroring_axes[0]"),
        ("datalist.json", _set("training", 0, "fold", to="x"), "training[0].fold"),
        ("datalist.json", _set("training", to=None), "training"),
        ("order.json", _set("labels", "liver", to=10**9), "labels.liver"),
        ("mapping.json", _set("classes", 0, "target", to=5), "classes[0].target"),
    ],
)
def test_the_sentence_names_the_place(run, world, file, change, place):
    reader = next(reader for reader in READERS if reader.file == file)
    code, output = run(reader, lambda file: write(change(read(file)), file))
    assert_told(code, output, reader)
    assert place in output


@pytest.mark.parametrize(("command", "trainer"), [("train", "nnUNetTrainer"), ("train", "STUNetTrainer_small")])
@pytest.mark.parametrize(
    ("file", "place", "value"),
    [
        ("nnUNetPlans.json", (*FULLRES, "batch_size"), "abc"),
        ("nnUNetPlans.json", (*FULLRES, "inherits_from"), "3d_fullres"),
        ("nnUNetPlans.json", ("configurations",), 5),
        ("nnUNetPlans.json", ("transpose_forward",), ...),
        ("dataset.json", ("labels",), 5),
        ("dataset.json", ("channel_names",), 5),
        ("dataset.json", ("file_ending",), ...),
        ("splits_final.json", (), 5),
        ("splits_final.json", (0, "train"), "abc"),
    ],
)
def test_training_refuses_files_of_another_form(tiny_dataset, capfd, command, trainer, file, place, value):
    path = Path(os.environ["nnUNet_preprocessed"]) / tiny_dataset / file
    path.write_text(json.dumps(altered(json.loads(path.read_text()) if path.is_file() else SPLITS, place, value)))
    capfd.readouterr()
    main = importlib.import_module(f"nnunetv2_ext.cli.{command}").main
    code = main(["7", "3d_fullres", "0", "-tr", trainer, "-device", "cpu", "--num_epochs", "1"])
    error = capfd.readouterr().err
    assert code == 2
    assert "Traceback" not in error
    assert file in error


def _chain(levels: int) -> str:
    return '{"background":{},"x":' + '{"a":' * levels + "{}" + "}" * levels + "}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tree.json", json.dumps({f"n{node}": {} for node in range(60_000)})),
        ("tree.json", json.dumps({f"n{node}": {} for node in range(100_000)})),
        ("tree.json", json.dumps({f"n{a}": {f"n{a}.{b}": {} for b in range(200)} for a in range(300)})),
        ("tree.json", _chain(3000)),
        ("tree/dataset.json", json.dumps(TREE | {"label_tree": {f"n{node}": {} for node in range(100_000)}})),
        ("order.json", json.dumps({"labels": {f"c{value}": value for value in range(1, 60_000)}})),
        ("order.json", json.dumps({"labels": {f"c{value}": value for value in range(1, 1_000_001)}})),
        ("order.json", json.dumps({"labels": {f"c{value}": 1 for value in range(60_000)}})),
        ("maps/dataset.json", json.dumps(DATASET | {"labels": {f"c{value}": value for value in range(1_000_000)}})),
        ("maps/dataset.json", json.dumps(DATASET | {"labels": {f"c{value}": value for value in range(4_000)}})),
        ("datalist.json", json.dumps(DATALIST | {"labels": {str(value): f"c{value}" for value in range(1_000_000)}})),
    ],
    ids=lambda content: content if len(content) < 20 else f"{content[:30]} of {len(content)}",
)
def test_many_names_are_read_at_once_or_refused(run, file, content):
    for reader in READERS:
        # Others import torch, read scans or start processes, which takes longer than the file.
        if reader.file == file and reader.command in ("info", "remap_labels", "evaluate", "convert_dataset"):
            begin = time.process_time()
            code, output = run(reader, lambda file: file.write_text(content))
            assert time.process_time() - begin < 10
            assert code in (0, 1, 2)
            assert "Traceback" not in output


@pytest.mark.parametrize("lines", ["body," * 3000 + "liver", "\n".join(f"body,c{value}" for value in range(100_000))])
def test_long_lists_of_salt_are_refused_at_once(run, lines):
    reader = next(reader for reader in TEXTS if reader.file == "salt/tree-labels.txt")

    def change(file: Path) -> None:
        file.write_text(lines, encoding="utf-8")
        (file.parent / "labels.txt").write_text("\n".join(f"c{value}" for value in range(100_000)))

    begin = time.process_time()
    code, output = run(reader, change)
    assert time.process_time() - begin < 10
    assert code in (1, 2)
    assert "Traceback" not in output
