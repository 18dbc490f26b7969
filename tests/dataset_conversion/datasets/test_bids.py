"""BIDS datasets with segmentations among their derivatives."""

import json

import numpy as np
import pytest

from nnunetv2_ext.labels import LabelOrder
from nnunetv2_ext.utilities.errors import UserError

ORDER = LabelOrder("mine", {"left hippocampus": 17, "brain stem": 16})
TABLE = "index\tname\tcolor\n0\tbackground\t#000000\n16\tbrain stem\t#ff0000\n17\tleft hippocampus\t#00ff00\n"


def _label(miniature, path):
    miniature.save(path, miniature.label(ORDER))


@pytest.fixture
def bids(miniature):
    """Two subjects, one with sessions; segmentations of a pipeline, with its table; images that are not segmented."""
    for stem in ("sub-01/anat/sub-01", "sub-02/ses-a/anat/sub-02_ses-a", "sub-02/ses-b/anat/sub-02_ses-b"):
        miniature.save(f"{stem}_T1w.nii.gz", miniature.image())
        if "ses-b" not in stem:
            _label(miniature, f"derivatives/manual/{stem}_dseg.nii.gz")
            miniature.save(f"derivatives/manual/{stem}_desc-brain_mask.nii.gz", miniature.label(ORDER))
    miniature.text("derivatives/manual/dseg.tsv", TABLE)
    return miniature


def test_converts_the_layout(bids, assert_converts, raw_folder):
    assert_converts("bids", training=2, licensed=False, drawn=ORDER)
    content = json.loads((raw_folder / "dataset.json").read_text())
    assert content["channel_names"] == {"0": "T1w"}
    assert content["labels"] == {"background": 0, "brain stem": 1, "left hippocampus": 2}
    assert {file.name for file in (raw_folder / "labelsTr").iterdir()} == {"sub-01.nii.gz", "sub-02_ses-a.nii.gz"}


def test_the_commands_of_the_documentation_run(bids, assert_documented_commands_run):
    assert_documented_commands_run("bids")


def test_channels_are_suffixes_and_images_beside_come_first(bids, convert, raw_folder):
    raw = np.full((12, 14, 16), -5, np.int16)
    raw[0] = 3
    for stem in ("sub-01/anat/sub-01", "sub-02/ses-a/anat/sub-02_ses-a"):
        bids.save(f"{stem}_FLAIR.nii.gz", raw)
    beside = bids.image()
    bids.save("derivatives/manual/sub-01/anat/sub-01_desc-preproc_T1w.nii.gz", beside)
    with pytest.raises(UserError, match="found FLAIR, T1w; choose with --channels"):
        convert("bids")
    result = convert("bids", channel_names=("FLAIR", "T1w"), accept=("duplicate",))
    assert len(result.converted) == 2
    import nibabel

    images = [
        nibabel.Nifti1Image.from_filename(raw_folder / "imagesTr" / f"sub-01_{n:04d}.nii.gz").get_fdata().T
        for n in (0, 1)
    ]
    np.testing.assert_array_equal(images, [raw, beside])


def test_spaces_and_runs_tell_images_apart(miniature, convert):
    for name in ("sub-1_run-1", "sub-1_run-2", "sub-1_space-MNI_run-1"):
        miniature.save(f"sub-1/anat/{name}_T2w.nii.gz", miniature.image())
    for name in ("sub-1_run-1_space-orig_desc-x", "sub-1_run-2", "sub-1_space-MNI_run-1", "sub-1", "sub-1_run-3"):
        _label(miniature, f"sub-1/anat/{name}_dseg.nii.gz")
    miniature.text("sub-1/anat/sub-1_dseg.tsv", TABLE)
    result = convert("bids")
    images = {record.identifier: record.sources[0].rpartition("/")[2] for record in result.converted}
    assert images == {
        "sub-1_run-1_space-orig_desc-x": "sub-1_run-1_T2w.nii.gz",
        "sub-1_run-2": "sub-1_run-2_T2w.nii.gz",
        "sub-1_space-MNI_run-1": "sub-1_space-MNI_run-1_T2w.nii.gz",
    }
    assert {record.identifier for record in result.failed} == {"sub-1", "sub-1_run-3"}
    assert "Expected one image T2w for" in result.failed[0].findings[-1].message


def test_a_table_that_contradicts_the_others_is_of_a_bad_case(bids, convert):
    bids.text("derivatives/manual/sub-02/ses-a/anat/sub-02_ses-a_dseg.tsv", "index\tname\n16\tleft hippocampus\n")
    (failed,) = convert("bids").failed
    assert failed.identifier == "sub-02_ses-a"
    assert "Expected 16 to be 'brain stem' as in other tables" in failed.findings[-1].message
    order = bids.text("order.json", ORDER.to_json())
    assert not convert("bids", order=str(order)).failed


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (None, "names of classes in tables"),
        ("index\tname\nx\ty\n", "Expected integers as index"),
        ("a\tb\n", "columns"),
    ],
)
def test_names_have_to_be_known(table, sentence, bids, convert):
    file = bids.root / "derivatives/manual/dseg.tsv"
    file.write_text(table) if table else file.unlink()
    with pytest.raises(UserError, match=sentence):
        convert("bids")


def test_a_folder_without_segmentations_is_none(miniature, convert):
    miniature.save("sub-01/anat/sub-01_T1w.nii.gz", miniature.image())
    with pytest.raises(UserError, match=r"Expected sub-\*/anat/\*_dseg.nii.gz"):
        convert("bids")
