import pytest

from nnunetv2_ext.dataset_conversion.layout import FilePattern, find_cases, find_root, named_cases
from nnunetv2_ext.utilities.errors import UserError

FOLDERS = FilePattern("images/{case}.nii.gz", "labels/{case}.nii.gz")


def _touch(root, *files):
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()


def test_finds_pairs_and_says_what_is_missing(tmp_path):
    _touch(tmp_path, "images/a.nii.gz", "images/b.nii", "images/c.nii.gz", "images/._a.nii.gz", "images/notes.txt")
    _touch(tmp_path, "labels/a.nii.gz", "labels/b.nii.gz", "labels/d.nii.gz")
    cases = {case.identifier: case for case in find_cases(tmp_path, [FOLDERS])}
    assert set(cases) == {"a", "b", "c", "d"}
    assert cases["b"].images[0].name == "b.nii"
    assert [case.problem for case in (cases["a"], cases["b"])] == ["", ""]
    assert cases["c"].problem == "Expected its label at labels/c.nii.gz, but there is none."
    assert cases["d"].problem == "Expected an image for the label labels/d.nii.gz, but there is none."


def test_channels_are_matched_by_name_and_masks_named(tmp_path):
    pattern = FilePattern("{case}/{channel}.nii.gz", "{case}/masks/{class}.nii.gz", identifier="patient {case}")
    _touch(tmp_path, "p1/T2.nii.gz", "p1/ADC.nii.gz", "p1/masks/liver.nii.gz", "p1/masks/spleen.nii.gz")
    _touch(tmp_path, "p2/T2.nii.gz", "p2/DWI.nii.gz", "p2/masks/liver.nii.gz")
    first, second = find_cases(tmp_path, [pattern], ("T2", "adc"))
    assert [image.name for image in first.images] == ["T2.nii.gz", "ADC.nii.gz"]
    assert sorted(first.masks) == ["liver", "spleen"]
    assert named_cases([first])[0].identifier == "patient_p1"
    assert second.problem == "Expected one file for each of the channels T2, adc, but found DWI, T2."


def test_numbers_of_channels_are_places(tmp_path):
    pattern = FilePattern("images/{case}_{channel}.nii.gz", "labels/{case}.nii.gz")
    _touch(tmp_path, *(f"images/a_{number}.nii.gz" for number in (10, 9, 2)), "labels/a.nii.gz")
    (case,) = find_cases(tmp_path, [pattern], ("T1", "T2", "ADC"))
    assert [image.name for image in case.images] == ["a_2.nii.gz", "a_9.nii.gz", "a_10.nii.gz"]


def test_a_test_case_needs_no_label(tmp_path):
    pattern = FilePattern("imagesTs/{case}.nii.gz", "labelsTs/{case}.nii.gz", "test")
    _touch(tmp_path, "imagesTs/a.nii.gz", "imagesTs/b.nii.gz", "labelsTs/a.nii.gz")
    assert [(case.problem, case.label is None) for case in find_cases(tmp_path, [pattern])] == [("", False), ("", True)]


def test_a_pattern_may_leave_folders_open(tmp_path):
    pattern = FilePattern("**/Training*/v-{case}.nii.gz", "**/Training*/s-{case}.nii.gz")
    _touch(tmp_path, "a/b/Training Batch 1/v-0.nii", "a/b/Training Batch 1/s-0.nii", "Training 2/v-1.nii.gz")
    cases = {case.identifier: case.problem for case in find_cases(find_root(tmp_path, [pattern], "x"), [pattern])}
    assert cases == {"0": "", "1": "Expected its label at **/Training*/s-1.nii.gz, but there is none."}


def test_a_repeated_field_must_repeat(tmp_path):
    pattern = FilePattern("train/{case}/{case}.nii.gz", "train/{case}/GT.nii.gz")
    _touch(tmp_path, "train/P1/P1.nii.gz", "train/P1/GT.nii.gz", "train/P2/P1.nii.gz")
    assert [case.identifier for case in find_cases(tmp_path, [pattern])] == ["P1"]


def test_the_dataset_may_lie_deeper(tmp_path):
    _touch(tmp_path, "download/v1/images/a.nii.gz", "other/readme.txt")
    assert find_root(tmp_path, [FOLDERS], "mini") == tmp_path / "download" / "v1"
    _touch(tmp_path, "download/v2/images/a.nii.gz")
    with pytest.raises(UserError, match="one copy of mini"):
        find_root(tmp_path, [FOLDERS], "mini")


def test_a_wrong_layout_is_said_in_one_sentence(tmp_path):
    _touch(tmp_path, "pictures/a.nii.gz", "labels/a.nii.gz")
    with pytest.raises(UserError) as error:
        find_root(tmp_path, [FOLDERS], "mini")
    assert str(error.value) == (
        f"Expected images/{{case}}.nii.gz in {tmp_path}, which is the layout of mini, but found labels, pictures."
    )
    with pytest.raises(UserError, match="there is none"):
        find_root(tmp_path / "nowhere", [FOLDERS], "mini")


@pytest.mark.parametrize("pattern", ["/etc/{case}.nii.gz", "../{case}.nii.gz", "a/../../{case}.nii.gz"])
def test_patterns_stay_below_the_folder(pattern):
    for arguments in ({"image": pattern}, {"image": "{case}.nii.gz", "label": pattern}):
        with pytest.raises(UserError, match="below the dataset's folder"):
            FilePattern(**arguments)
