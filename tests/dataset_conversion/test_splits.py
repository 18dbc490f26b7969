"""Folds: a partition, even in every source, copies together."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunetv2_ext.dataset_conversion.splits import bring_splits, leave_one_source_out, stratified_splits
from nnunetv2_ext.utilities.errors import UserError


@st.composite
def collections(draw):
    sizes = draw(st.lists(st.integers(1, 25), min_size=1, max_size=4))
    source_of = {f"{source}_{case}": str(source) for source, size in enumerate(sizes) for case in range(size)}
    cases = draw(st.permutations(sorted(source_of)))
    groups = []
    for _ in range(draw(st.integers(0, 4))):
        size = draw(st.integers(2, 3))
        if len(cases) >= size:
            groups.append(cases[:size])
            cases = cases[size:]
    return source_of, groups


@settings(max_examples=80, deadline=None)
@given(collections())
def test_folds_partition_the_cases_and_keep_groups(collection):
    source_of, groups = collection
    splits = stratified_splits(source_of, groups)
    units = len(source_of) - sum(len(group) - 1 for group in groups)
    assert len(splits) == (min(5, units) if units > 1 else 0)
    if not splits:
        return
    assert sorted(case for fold in splits for case in fold["val"]) == sorted(source_of)
    for fold in splits:
        assert fold["val"]
        assert fold["train"]
        assert set(fold["train"]) == set(source_of) - set(fold["val"])
        assert fold["train"] == sorted(fold["train"])
        assert fold["val"] == sorted(fold["val"])
        for group in groups:
            assert len(set(group) & set(fold["val"])) in (0, len(group))


@settings(max_examples=80, deadline=None)
@given(collections())
def test_a_fold_per_source_validates_on_it_and_trains_on_what_has_nothing_to_do_with_it(collection):
    source_of, groups = collection
    sources = sorted(set(source_of.values()))
    # By definition, case by case.
    expected = {
        source: [
            case
            for case in sorted(source_of)
            if source_of[case] != source
            and not any(case in group and any(source_of[other] == source for other in group) for group in groups)
        ]
        for source in sources
    }
    if not all(expected.values()):
        with pytest.raises(UserError, match="to train on without the source"):
            leave_one_source_out(source_of, groups)
        return
    splits = leave_one_source_out(source_of, groups)
    assert [fold["val"] for fold in splits] == [
        [case for case in sorted(source_of) if source_of[case] == source] for source in sources
    ]
    assert [fold["train"] for fold in splits] == list(expected.values())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_without_groups_every_source_is_spread_to_within_one_case(sizes):
    source_of = {f"{source}_{case}": str(source) for source, size in enumerate(sizes) for case in range(size)}
    splits = stratified_splits(source_of)
    for source in range(len(sizes)):
        counts = [sum(source_of[case] == str(source) for case in fold["val"]) for fold in splits]
        assert not counts or max(counts) - min(counts) <= 1
    totals = [len(fold["val"]) for fold in splits]
    assert not totals or max(totals) - min(totals) <= 1


def test_a_group_of_one_source_does_not_push_the_other_source_aside():
    source_of = {f"{source}_{case}": source for source in "ab" for case in range(10)}
    splits = stratified_splits(source_of, [["a_0", "a_1", "a_2"]])
    assert [sum(case.startswith("b") for case in fold["val"]) for fold in splits] == [2] * 5
    assert sorted(sum(case.startswith("a") for case in fold["val"]) for fold in splits) == [1, 2, 2, 2, 3]


def test_splits_do_not_depend_on_the_order_of_the_cases():
    source_of = {f"{source}_{case}": source for source in "ab" for case in range(11)}
    backwards = dict(reversed(source_of.items()))
    assert stratified_splits(source_of, [["a_1", "b_1"]]) == stratified_splits(backwards, [["b_1", "a_1"]])


def test_splits_follow_the_raw_dataset_once(nnunet_folders, monkeypatch, caplog):
    name = "Dataset010_Collection"
    assert not bring_splits(name)
    raw = nnunet_folders / "nnUNet_raw" / name / "splits_final.json"
    raw.parent.mkdir()
    raw.write_text(json.dumps([{"train": ["a"], "val": ["b"]}]))
    assert bring_splits(name)
    arrived = nnunet_folders / "nnUNet_preprocessed" / name / "splits_final.json"
    assert json.loads(arrived.read_text()) == [{"train": ["a"], "val": ["b"]}]
    arrived.write_text("[]")
    assert not bring_splits(name), "splits that are there are left alone"
    assert arrived.read_text() == "[]"
    assert "differs from" in caplog.text
    arrived.unlink()
    monkeypatch.delenv("nnUNet_raw")
    assert not bring_splits(name), "a machine that only trains has no raw data"
