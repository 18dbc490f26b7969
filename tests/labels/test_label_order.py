import json
import re
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunetv2_ext.labels import LabelOrder, list_label_orders
from nnunetv2_ext.labels.label_order import as_integers
from nnunetv2_ext.resources import resource_folder
from nnunetv2_ext.utilities.errors import UserError

ORDERS = list_label_orders()


@pytest.fixture(scope="module")
def schema():
    return json.loads((resource_folder("label_orders") / "schemas" / "label_order.schema.json").read_text())


@pytest.mark.parametrize("name", ORDERS)
def test_every_order_fits_the_schema_and_reads(name, schema):
    content = json.loads((resource_folder("label_orders") / f"{name}.json").read_text())
    jsonschema.validate(content, schema)
    order = LabelOrder.read(name)
    assert order.name == name
    assert set(order.colors) == set(order.labels)
    assert len(set(order.colors.values())) == len(order.colors)
    assert LabelOrder.from_json(json.loads(json.dumps(order.to_json()))) == order


@pytest.mark.parametrize("name", ORDERS)
def test_sides_are_paired_and_named_after_the_side(name):
    order = LabelOrder.read(name)
    for left, right in order.left_right_pairs:
        assert left.replace("left", "right") == right
    paired = {side for pair in order.left_right_pairs for side in pair}
    for class_name in order.labels:
        mirrored = class_name.replace("left", "#").replace("right", "left").replace("#", "right")
        if mirrored != class_name and mirrored in order.labels:
            assert class_name in paired


def test_a_class_has_one_color_in_all_orders():
    seen: dict[str, tuple[int, int, int]] = {}
    for name in ORDERS:
        for class_name, color in LabelOrder.read(name).colors.items():
            assert seen.setdefault(class_name, color) == color


# Codes that DICOM's own context groups do not have: of TotalSegmentator's published table, and of HL7 CodeX's map from
# AAPM TG-263.
PUBLISHED = {
    **{
        "181674001": "Gluteus maximus muscle",
        "78333006": "Gluteus medius muscle",
        "75297007": "Gluteus minimus muscle",
    },
    **{"244849004": "Deep muscle of back", "68455001": "Iliopsoas muscle", "74281007": "Myocardium"},
    **{"110765007": "Portal vein and splenic vein", "65985001": "S1 vertebra"},
    **{"48535007": "First rib", "78247007": "Second rib", "25888004": "Third rib", "25523003": "Fourth rib"},
    **{"15339008": "Fifth rib", "59558009": "Sixth rib", "24915002": "Seventh rib", "5953002": "Eighth rib"},
    **{"22565002": "Ninth rib", "77644006": "Tenth rib", "58830002": "Eleventh rib", "43993008": "Twelfth rib"},
    **{"113276009": "Intestine", "80169004": "Cochlea", "77578007": "Arytenoid cartilage"},
}


@pytest.fixture(scope="module")
def sct():
    """Code -> its meanings in DICOM's context groups, without case, and without what kind of concept it is."""
    from pydicom.sr import _concepts_dict

    concepts: dict[str, Any] = vars(_concepts_dict)["concepts"]
    meanings: dict[str, set[str]] = {}
    for same in concepts["SCT"].values():
        for code, (meaning, _) in same.items():
            plain = re.sub(r"( structure)? \([a-z ]+\)$", "", meaning.lower())
            meanings.setdefault(code, set()).update((meaning.lower(), plain))
    return meanings


@pytest.mark.parametrize("name", ORDERS)
def test_every_class_has_codes_that_others_know(name, sct):
    order = LabelOrder.read(name)
    assert set(order.codes) == set(order.labels)
    assert order.codes_source
    without = {"cricopharyngeal_inlet", "intervertebral_discs", "prostate_or_uterus"}
    assert {class_name for class_name, codes in order.codes.items() if not codes} == without & set(order.labels)
    for class_name, codes in order.codes.items():
        for code in filter(None, codes):
            number, meaning = re.findall(r"^(\d+) \|(.+)\|$", code)[0]
            assert meaning.lower() in sct.get(number, {PUBLISHED.get(number, "").lower()}), (class_name, code)
        for side, other in (("left", "24028007"), ("right", "7771000")):
            sided = re.search(rf"(^|_){side}(_|$)", class_name) is not None
            assert not sided or (f"{other} |" not in " ".join(codes) and (codes[2:] or side in codes[1].lower()))


def test_a_class_has_the_same_codes_in_all_orders():
    seen: dict[str, tuple[str, ...]] = {}
    for name in ORDERS:
        for class_name, codes in LabelOrder.read(name).codes.items():
            assert seen.setdefault(class_name.rsplit("/", 1)[-1], codes) == codes


def test_orders_of_the_facts(reference_folder):
    facts = json.loads((reference_folder / "label_orders.json").read_text())
    for name, labels in facts.items():
        assert LabelOrder.read(name).labels == labels


def test_stunet_is_lexicographic_and_shares_no_integer_with_totalsegmentator():
    stunet, published = LabelOrder.read("stunet_totalsegmentator"), LabelOrder.read("totalsegmentator_v1")
    assert list(stunet.labels) == sorted(published.labels)
    assert not set(stunet.labels.items()) & set(published.labels.items())
    assert LabelOrder.read("monai_wholebody").labels == published.labels


def test_multitalent_has_the_47_outputs_of_the_paper():
    order = LabelOrder.read("multitalent")
    assert [len(classes) for classes in order.sources.values()] == [2, 1, 2, 2, 1, 1, 13, 4, 8, 6, 4, 1, 2]
    assert order.values == tuple(range(1, 48))
    unions = {name: value for name, value in order.labels.items() if isinstance(value, tuple)}
    assert unions == {"msd_liver/liver": (1, 2), "msd_pancreas/pancreas": (4, 5), "kits19/kidneys": (46, 47)}
    for source, classes in order.sources.items():
        known = LabelOrder.read(source)
        for class_name in classes:
            assert known.find(class_name.removeprefix(f"{source}/")) is not None


@pytest.mark.parametrize("through", ["totalsegmentator_v1", "stunet_totalsegmentator", "totalsegmentator_mr"])
def test_there_and_back_keeps_what_both_have(through):
    start, middle = LabelOrder.read("totalsegmentator_v2"), LabelOrder.read(through)
    shared = {start.value(name) for name in start.labels if middle.find(name)}
    label_map = np.arange(118, dtype=np.uint8).reshape(2, 59, 1)
    back = middle.remap(start.remap(label_map, to=middle, drop="all"), to=start)
    np.testing.assert_array_equal(back, np.where(np.isin(label_map, list(shared)), label_map, 0))


@given(st.data())
def test_remap_equals_a_dictionary(data):
    names = data.draw(st.lists(st.sampled_from("abcdefgh"), min_size=1, unique=True))
    integers = st.lists(st.integers(1, 400), min_size=len(names), max_size=len(names), unique=True)
    first = LabelOrder("first", dict(zip(names, data.draw(integers), strict=True)))
    second = LabelOrder("second", dict(zip(names, data.draw(integers), strict=True)))
    voxels = data.draw(st.lists(st.sampled_from([0, *first.values]), min_size=1, max_size=40))
    truth = {0: 0} | {first.labels[name]: second.labels[name] for name in names}
    label_map = np.array(voxels, dtype=data.draw(st.sampled_from([np.uint16, np.int32, np.float32])))
    np.testing.assert_array_equal(first.remap(label_map, to=second), [truth[voxel] for voxel in voxels])


def test_nothing_is_dropped_silently():
    rich = LabelOrder("rich", {"liver": 1, "skull": 2})
    poor = LabelOrder("poor", {"liver": 7})
    assert rich.remap([0, 1, 1], to=poor).tolist() == [0, 7, 7]
    with pytest.raises(UserError, match="skull, which poor cannot express; drop"):
        rich.remap([0, 1, 2], to=poor)
    assert rich.remap([0, 1, 2], to=poor, drop=["Skull"]).tolist() == [0, 7, 0]
    assert rich.remap([0, 1, 2], to=poor, drop="all").tolist() == [0, 7, 0]
    with pytest.raises(UserError, match="none of its classes"):
        rich.remap([0], to=poor, drop=["femur"])


@pytest.mark.parametrize("voxels", [[0, 3], [-1, 0], [0, 900]])
def test_unknown_integers_are_refused(voxels):
    order = LabelOrder("order", {"liver": 1, "spleen": 4})
    with pytest.raises(UserError, match="Expected the integers of order"):
        order.remap(voxels, to=order)


def test_scaled_labels_are_rounded():
    np.testing.assert_array_equal(as_integers(np.array([1.9999999, 3.0000002, 0.0], np.float32)), [2, 3, 0])


@pytest.mark.parametrize("bad", [[0.5], [np.nan], [np.inf], [1e20]])
def test_fractions_are_refused(bad):
    with pytest.raises(UserError, match="whole numbers"):
        as_integers(np.array(bad))


def test_aliases_translate_either_way():
    theirs = LabelOrder("theirs", {"Right Kidney": 5, "postcava": 6})
    ours = LabelOrder.read("btcv_abdomen")
    assert ours.find("right kidney") == "kidney_right"
    assert theirs.remap([5, 6], to=ours).tolist() == [2, 9]
    assert ours.remap([2, 9], to=theirs).tolist() == [5, 6]


def test_regions_translate_as_sets():
    regions = LabelOrder("regions", {"liver": (1, 2), "tumor": 2})
    swapped = LabelOrder("swapped", {"tumor": 1, "liver": (1, 3)})
    assert regions.remap([0, 1, 2], to=swapped).tolist() == [0, 3, 1]
    assert regions.remap([0, 1, 2], to=LabelOrder("plain", {"liver": 9}), drop=["tumor"]).tolist() == [0, 9, 9]
    with pytest.raises(UserError, match="cannot express"):
        regions.remap([2], to=LabelOrder("disjoint", {"liver": 1, "tumor": 2}))


def test_the_ignore_label_travels():
    first = LabelOrder("first", {"body": 1}, ignore_label=255)
    second = LabelOrder("second", {"body": 3}, ignore_label=4)
    assert first.remap(np.array([0, 1, 255], np.uint8), to=second).tolist() == [0, 3, 4]
    with pytest.raises(UserError, match="ignore label"):
        first.remap([255], to=LabelOrder("third", {"body": 3}))


def test_integers_are_closed_up():
    verse = LabelOrder.read("verse20")
    closed = verse.consecutive()
    assert closed.values == tuple(range(1, len(verse.labels) + 1))
    assert verse.remap([28, 1], to=closed).tolist() == [28, 1]
    assert LabelOrder.read("gibson_multi_organ").consecutive().labels["duodenum"] == 8
    assert verse.subset(["C1", "sacrum"]).labels == {"vertebrae_C1": 1, "sacrum": 26}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"labels": {}}, "at least one class"),
        ({"labels": {"a": 0}}, "1 to 65535"),
        ({"labels": {"a": 1, "b": 1}}, "one class per integer"),
        ({"labels": {"a": 1, "A": 2}}, "differ in more than case"),
        ({"labels": {"background": 1}}, "background"),
        ({"labels": {"a": 1, "b": 2}, "aliases": {"a": ["x"], "b": ["X"]}}, "aliases of one class"),
        ({"labels": {"a": 1}, "left_right_pairs": [["a", "b"]]}, "its own classes"),
        ({"labels": {"a": 1, "b": 2}, "left_right_pairs": [["a", "a"]]}, "pairs of two different classes"),
        ({"labels": {"a": 1, "b": [1, 2]}, "regions": {"c": ["a"]}}, "regions either as labels or in their own"),
        ({"labels": {"a": 1}, "ignore_label": 1}, "ignore label"),
        ({"labels": {"a": 1}, "colours": {}}, "only the entries .* as colours"),
        ([], "an object with labels"),
    ],
)
def test_bad_orders_are_refused_in_one_sentence(content, sentence, tmp_path):
    file = tmp_path / "bad.json"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=sentence) as error:
        LabelOrder.read(file)
    assert "\n" not in str(error.value)


def test_reads_a_dataset_json(tmp_path):
    labels = {"background": 0, "liver": [1, 2], "spleen": [3, 3], "tumor": 2, "ignore": 4}
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": labels}))
    order = LabelOrder.read(tmp_path)
    assert order.labels == {"liver": (1, 2), "spleen": 3, "tumor": 2}
    assert order.ignore_label == 4
    assert order.nnunet_labels() == {"background": 0, "liver": [1, 2], "spleen": 3, "tumor": 2, "ignore": 4}


def test_says_what_there_is_when_a_name_is_wrong():
    with pytest.raises(UserError, match="totalsegmentator_v2"):
        LabelOrder.read("totalsegmentator_v9")


def test_the_example_of_the_documentation():
    text = (resource_folder("label_orders").parent / "docs" / "labels.md").read_text()
    lines = text.split("```python\n")[1].split("```")[0].strip().splitlines()
    names: dict[str, object] = {}
    exec("\n".join(lines[:-2]), names)
    for line in lines[-2:]:
        code, _, result = line.partition("#")
        exec(f"found, expected = {code.strip()}, {result.strip()}", names)
        assert names["found"] == names["expected"]


def test_a_union_has_no_single_integer():
    with pytest.raises(
        UserError, match=r"Expected one integer for 'liver' in regions, but it is the union of \(1, 2\)"
    ):
        LabelOrder("regions", {"liver": (1, 2), "tumor": 2}).value("liver")


def test_a_dataset_json_without_labels_is_refused():
    with pytest.raises(UserError, match=r"Expected an object .* as labels in dataset\.json, but found \['liver'\]"):
        LabelOrder.from_dataset_json({"labels": ["liver"]})


def test_no_voxels_are_no_error():
    order = LabelOrder("order", {"liver": 1})
    assert order.remap(np.zeros((0, 4, 4), np.uint8), to=order).shape == (0, 4, 4)
