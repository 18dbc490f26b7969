"""Scans and label maps that are damaged, lie, or are no images, met by every command that reads images."""

from __future__ import annotations

import contextlib
import gzip
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt

from attacks import fixtures
from attacks.judge import voxels_of
from attacks.recipes import RECIPES, Recipe, per_command
from attacks.sandbox import Sandbox
from attacks.table import ACCEPTED, ANY, REFUSED, Expect, SetUp, Try, file_names, kind, pick

#: Writes the file in the place of a good one; the last argument says whether that is a label map.
Write = Callable[[Sandbox, Path, bool], object]
ROLES = ("image", "label", "reference")
#: Commands that read what is written as nnU-Net has it, and do not look at other endings.
_OF_DATASETS = ("merge_datasets", "remap_labels", "report")
_ENDINGS_OF_DATASETS = (".nii.gz", ".nii", ".nrrd", ".mha")


@dataclass(frozen=True)
class Fault:
    """One way in which a file is bad.

    Attributes:
        write: Writes it.
        ending: Of the file, and of the good ones beside it.
        codes: Admissible exit codes.
    """

    write: Write
    ending: str = ".nii.gz"
    codes: frozenset[int] = REFUSED


def _voxels(is_label: bool) -> npt.NDArray[Any]:
    return fixtures.label_map(0) if is_label else fixtures.ct(0)


def _nifti(change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]] = lambda voxels: voxels, **options: Any) -> Write:
    """A NIfTI file of changed voxels or with fields of the header set."""
    return lambda box, path, is_label: fixtures.write_nifti(path, change(_voxels(is_label)), **options)


def _bytes(change: Callable[[bytes], bytes], compress: bool = True) -> Write:
    """A NIfTI file whose bytes are changed before, or after, they are compressed."""

    def write(box: Sandbox, path: Path, is_label: bool) -> None:
        content = fixtures.nifti_bytes(_voxels(is_label))
        path.write_bytes(gzip.compress(change(content), 1) if compress else change(gzip.compress(content, 1)))

    return write


def _with_voxel(value: Any, dtype: str) -> Write:
    def change(voxels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        changed = voxels.astype(dtype)
        changed[3, 3, 3] = value
        return changed

    return _nifti(change)


def _spacing(*values: float) -> Write:
    """The spacing of the first axes in both of the places where NIfTI states it."""
    pixdim = dict(enumerate(values, start=1))
    rows = {f"srow_{'xyz'[axis]}": {axis: value} for axis, value in enumerate(values)}
    return _nifti(fields={"pixdim": pixdim, **rows})


def _rgb(voxels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.repeat(voxels.astype(np.uint8)[..., None], 3, -1).view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]


_SINGULAR = {"sform_code": 1, "qform_code": 0, "srow_x": {0: 0.0, 1: 0.0, 2: 0.0}}
_NO_SFORM = {"sform_code": 0, "qform_code": 1}

VALUES: Mapping[str, Fault] = {
    "nan": Fault(_with_voxel(np.nan, "float32")),
    "infinity": Fault(_with_voxel(-np.inf, "float64")),
    "rgb": Fault(_nifti(_rgb)),
    "complex": Fault(_nifti(lambda voxels: voxels.astype(np.complex64) * (1 + 1j))),
    "int64_beyond_int32": Fault(_with_voxel(1 << 40, "int64")),
    "uint64_beyond_int64": Fault(_with_voxel((1 << 63) + 5, "uint64")),
    "slope_nan": Fault(_nifti(fields={"scl_slope": np.nan, "scl_inter": np.inf}), codes=ANY),
    "slope_infinite": Fault(_nifti(fields={"scl_slope": np.inf, "scl_inter": 1.0}), codes=ANY),
    "slope_huge": Fault(_nifti(lambda voxels: voxels.astype(np.float32), fields={"scl_slope": 3e38,
        "scl_inter": 3e38})),
}  # fmt: skip
GEOMETRY: Mapping[str, Fault] = {
    "singular_sform": Fault(_nifti(fields=_SINGULAR)),
    "nan_in_sform": Fault(_nifti(fields={**_SINGULAR, "srow_x": {0: np.nan}})),
    "infinite_origin": Fault(_nifti(fields={"srow_x": {3: np.inf}, "qoffset_x": np.inf})),
    "nan_quaternion": Fault(_nifti(fields={**_NO_SFORM, "quatern_b": np.nan})),
    "quaternion_of_5": Fault(_nifti(fields={**_NO_SFORM, "quatern_b": 5.0}), codes=ANY),
    "spacing_0": Fault(_spacing(0.0)),
    "spacing_nan": Fault(_spacing(np.nan)),
    "spacing_infinite": Fault(_spacing(np.inf)),
    "spacing_100_m": Fault(_spacing(1e5, 1e5, 1e5)),
    "spacing_1e-12": Fault(_spacing(1e-12, 1e-12, 1e-12)),
    "negative_pixdim": Fault(_nifti(fields={"pixdim": {1: -1.5}, **_NO_SFORM}), codes=ACCEPTED),
    "nifti2": Fault(_nifti(image_class=nibabel.Nifti2Image), codes=ACCEPTED),
    "sheared": Fault(_nifti(affine=np.array([[1.5, 0.9, 0, 0], [0, 1.5, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])),
        codes=ANY),
    "grid_of_its_own": Fault(_nifti(lambda voxels: voxels[:-3]), codes=ANY),
    "two_volumes": Fault(_nifti(lambda voxels: np.stack([voxels, voxels], -1)), codes=ANY),
    "one_plane": Fault(_nifti(lambda voxels: voxels[..., 0]), codes=ANY),
    "one_voxel": Fault(_nifti(lambda voxels: voxels[:1, :1, :1]), codes=ANY),
}  # fmt: skip


def _member_bomb(box: Sandbox, path: Path, is_label: bool) -> None:
    """A good image with a gigabyte of zeros behind it, in three megabytes."""
    content = gzip.compress(fixtures.nifti_bytes(_voxels(is_label)), 1)
    path.write_bytes(content + gzip.compress(bytes(1 << 24), 9) * 64)


def _header_bomb(box: Sandbox, path: Path, is_label: bool) -> None:
    """A header that promises two gigavoxels, and a gigabyte of zeros."""
    header = fixtures.nifti_bytes(_voxels(is_label), fields={"dim": {1: 2000, 2: 1000, 3: 1000}})[:352]
    path.write_bytes(gzip.compress(header) + gzip.compress(bytes(1 << 26), 9) * 16)


DAMAGE: Mapping[str, Fault] = {
    "empty": Fault(lambda box, path, _: path.write_bytes(b"")),
    "text": Fault(lambda box, path, _: path.write_text("<html>404 Not Found</html>\n" * 30)),
    "random_bytes": Fault(lambda box, path, _: path.write_bytes(np.random.default_rng(3).bytes(5000))),
    "truncated_gz": Fault(_bytes(lambda content: content[: len(content) * 2 // 3], compress=False)),
    "gz_without_its_sum": Fault(_bytes(lambda content: content[:-8], compress=False)),
    "gz_with_wrong_sum": Fault(_bytes(lambda content: content[:-8] + b"\0\1\2\3" + content[-4:], compress=False)),
    "gz_damaged_inside": Fault(_bytes(lambda c: c[: len(c) // 2] + b"\xff" * 9 + c[len(c) // 2 + 9 :], compress=False)),
    "gz_with_garbage_behind": Fault(_bytes(lambda content: content + b"garbage" * 9, compress=False), codes=ANY),
    "gz_in_gz": Fault(_bytes(lambda content: gzip.compress(content), compress=True)),
    "zlib_for_gz": Fault(_bytes(lambda content: zlib.compress(gzip.decompress(content)), compress=False)),
    "truncated_voxels": Fault(_bytes(lambda content: content[: len(content) // 2])),
    "header_alone": Fault(_bytes(lambda content: content[:352])),
    "half_a_header": Fault(_bytes(lambda content: content[:100])),
    "not_compressed": Fault(_bytes(gzip.decompress, compress=False), codes=ANY),
    "truncated_nii": Fault(_bytes(lambda content: gzip.decompress(content)[:2000], compress=False), ".nii"),
    "gz_bomb": Fault(_member_bomb, codes=ANY),
    "gz_bomb_by_header": Fault(_header_bomb),
    "dim_35_terabytes": Fault(_nifti(fields={"dim": {1: 32767, 2: 32767, 3: 32767}})),
    "dim_negative": Fault(_nifti(fields={"dim": {1: -5}})),
    "dim_zero": Fault(_nifti(fields={"dim": {2: 0}})),
    "dim_of_99_axes": Fault(_nifti(fields={"dim": {0: 99}})),
    "dim_of_7_axes": Fault(_nifti(fields={"dim": {0: 7, 4: 1, 5: 3, 6: 3, 7: 3}})),
    "offset_beyond_the_end": Fault(_nifti(fields={"vox_offset": 1e9})),
    "offset_nan": Fault(_nifti(fields={"vox_offset": np.nan})),
    "offset_negative": Fault(_nifti(fields={"vox_offset": -800.0}), codes=ANY),
    "unknown_datatype": Fault(_nifti(fields={"datatype": 4321})),
    "wrong_bits": Fault(_nifti(fields={"bitpix": 7}), codes=ANY),
    "wrong_magic": Fault(_nifti(fields={"magic": b"xyz"}), codes=ANY),
    "magic_of_a_pair": Fault(_nifti(fields={"magic": b"ni1"}), codes=ANY),
}


def _instead(make: Callable[[Path], object]) -> Write:
    def write(box: Sandbox, path: Path, is_label: bool) -> None:
        path.unlink()
        make(path)

    return write


def _pointing(header: Callable[..., bytes], target: str, further: str = "") -> Write:
    """A header whose voxels are in another file; ``{box}`` stands for the sandbox."""

    def write(box: Sandbox, path: Path, is_label: bool) -> None:
        data = target.format(box=box.root)
        path.write_bytes(header(_voxels(is_label).astype(np.uint8), data) + further.format(box=box.root).encode())
        if data.endswith("pipe"):
            os.mkfifo(box.inputs / "pipe")
            os.mkfifo(path.parent / "pipe")
        (path.parent / "link.raw").symlink_to(box.root / "secret.bin")

    return write


_UP = "../../../../../../../..{box}/secret.bin"
FOREIGN: Mapping[str, Fault] = {
    f"{name}_{what}": Fault(_pointing(header, target, further), ending)
    for ending, header in ((".mha", fixtures.meta_header), (".mhd", fixtures.meta_header), (".nrrd",
        fixtures.nrrd_header), (".nhdr", fixtures.nrrd_header))
    for name in (ending[1:],)
    for what, target, further in (
        ("absolute_path", "{box}/secret.bin", ""),
        ("path_upwards", _UP, ""),
        ("link_to_a_secret", "link.raw", ""),
        ("system_file", "/etc/passwd", ""),
        ("device", "/dev/zero", ""),
        ("pipe", "pipe", ""),
        ("list_of_files", "LIST", "{box}/secret.bin\n" * 10),
        ("pattern_of_files", "{box}/secret%d.bin 1 10 1", ""),
        ("name_of_5000_letters", "x" * 5000, ""),
        ("itself", "bad" + ending, ""),
        ("missing_file", "nothing.raw", ""),
    )
}  # fmt: skip
PLACES: Mapping[str, Fault] = {
    "dangling_link": Fault(_instead(lambda path: path.symlink_to("nowhere.nii.gz"))),
    "link_to_itself": Fault(_instead(lambda path: path.symlink_to(path.name))),
    "folder": Fault(_instead(lambda path: path.mkdir()), codes=ANY),
    "fifo": Fault(_instead(os.mkfifo)),
    "device": Fault(_instead(lambda path: path.symlink_to("/dev/zero"))),
    "forbidden": Fault(lambda box, path, _: path.chmod(0)),
}


def _set_up(recipe: Recipe, role: str, fault: Fault) -> SetUp:
    def set_up(box: Sandbox) -> Sequence[str]:
        argv = recipe.build(box, fault.ending)
        fault.write(box, recipe.file(box, role, fault.ending), role != "image")
        return argv

    return set_up


def good_case_is_there(box: Sandbox, output: str) -> Iterator[str]:
    """A bad case stops no other one: the good case of the batch is written and right."""
    if (box.inputs / "images").is_dir():
        if not any(name.startswith("good") for name in file_names(box.out)):
            yield "the good case was not predicted"
    elif (box.inputs / "maps").is_dir():
        found = [name for name in file_names(box.out) if name.startswith("good.")]
        if not found:
            yield "the good case was not remapped"
        elif found[0].endswith(".nii.gz"):
            truth = np.array([0, 7, 3])[fixtures.label_map(1)]
            if not np.array_equal(voxels_of(box.out / found[0]), truth):
                yield "the good case was remapped wrongly"
    elif (box.inputs / "data").is_dir():
        found = file_names(box.raw / "Dataset101_New" / "labelsTr")
        if "good.nii.gz" not in found:
            yield "the good case was not converted"
        elif not np.array_equal(voxels_of(box.raw / "Dataset101_New/labelsTr/good.nii.gz"), fixtures.label_map(1)):
            yield "the good case was converted wrongly"
    page = box.out / "dataset_report.html"
    if page.is_file() and "<strong>good</strong>" not in page.read_text(encoding="utf-8"):
        yield "the good case is not on the page"


def keeps_secret(box: Sandbox, output: str) -> Iterator[str]:
    """No result holds the bytes of a file that was not given."""
    secret = b"SECRET of a file"
    for folder in (box.out, box.raw, box.preprocessed, box.results):
        for file in folder.rglob("*") if folder.is_dir() else ():
            if file.is_file() and not file.is_symlink():
                content = file.read_bytes()
                if file.name.endswith(".gz"):
                    # Damaged sources lie there, too.
                    with contextlib.suppress(OSError, EOFError, zlib.error):
                        content = gzip.decompress(content)
                if secret in content or b"root:x:0" in content:
                    yield f"{file.name} holds the bytes of another file"


def _tries(turn: int, fault: Fault, name: str) -> Iterator[Try]:
    for recipe, role in per_command(turn, *ROLES):
        if recipe.command in _OF_DATASETS and fault.ending not in _ENDINGS_OF_DATASETS:
            continue
        checks = (keeps_secret,) if recipe.command == "merge_datasets" else (keeps_secret, good_case_is_there)
        says = "bad" if fault.codes == REFUSED else ""
        options = {"obeys_permissions": True} if name == "forbidden" else {}
        expect = Expect(fault.codes, recipe.targets, says, checks)
        yield Try(recipe.command, f"{recipe.name}/{role}", (_set_up(recipe, role, fault),), expect, options=options)


#: First words of faults that are examples of one strategy.
_STRATEGIES = ("dim", "gz", "offset", "slope", "spacing", "truncated")


def _register(turn: int, name: str, fault: Fault) -> None:
    first = name.partition("_")[0]

    @kind(f"scan_{name}", strategy=f"scan_{first}" if first in _STRATEGIES else "")
    def make() -> Iterator[Try]:
        yield from _tries(turn, fault, name)


for _turn, (_name, _fault) in enumerate({**VALUES, **GEOMETRY, **DAMAGE, **PLACES}.items()):
    _register(_turn, _name, _fault)


def _register_header(turn: int, what: str) -> None:
    @kind(f"scan_header_names_{what}")
    def make() -> Iterator[Try]:
        """Every format whose header may name another file is one example."""
        of_kind = {name: fault for name, fault in FOREIGN.items() if name.endswith(f"_{what}")}
        for recipe, role in per_command(turn, *ROLES):
            merges = recipe.command == "merge_datasets"
            all_endings = recipe.command not in _OF_DATASETS
            faults = [fault for fault in of_kind.values() if all_endings or fault.ending in _ENDINGS_OF_DATASETS]
            # A pipe or device that is read takes as long as a hang: one example is enough.
            faults = faults[-1:] if what in ("pipe", "device") else pick(faults, turn, 2)
            checks = (keeps_secret,) if merges else (keeps_secret, good_case_is_there)
            examples = tuple(_set_up(recipe, role, fault) for fault in faults)
            yield Try(recipe.command, f"{recipe.name}/{role}", examples, Expect(REFUSED, recipe.targets, "bad", checks))


for _turn, _what in enumerate(sorted({name.partition("_")[2] for name in FOREIGN})):
    _register_header(_turn, _what)


@kind("scan_for_planning")
def planning() -> Iterator[Try]:
    """Planning reads every image of a dataset whose fingerprint is missing."""
    for name in ("truncated_gz", "text", "dangling_link"):
        fault = {**DAMAGE, **PLACES}[name]

        def set_up(box: Sandbox, fault: Fault = fault) -> Sequence[str]:
            argv = RECIPES["plan"](box)
            (box.preprocessed / "Dataset001_Tiny" / "dataset_fingerprint.json").unlink()
            fault.write(box, box.raw / "Dataset001_Tiny/imagesTr/bad_0000.nii.gz", False)
            return argv

        yield Try("plan", name, (set_up,), Expect(REFUSED, RECIPES["plan"].targets))
