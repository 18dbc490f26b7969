import json

import jsonschema
import pytest

from nnunetv2_ext.labels import LabelMapping, LabelOrder, list_mappings
from nnunetv2_ext.resources import resource_folder
from nnunetv2_ext.utilities.errors import UserError

# Target integers that are excluded, read off the direct inference table of STU-Net.
EXCLUDED = {
    "msd_liver": [],
    "msd_pancreas": [],
    "msd_spleen": [],
    "btcv_abdomen": [],
    "btcv_cervix": [2, 3, 4],
    "abdomenct_1k": [],
    "kits21": [],
    "flare22": [],
    "ct_org": [5],
    "amos22": [4, 9, 15],
    "kipa22": [1, 3, 4],
    "verse20": [25, 26, 27, 28],
    "word": [11, 12, 13],
    "segthor": [2],
}


def test_the_fourteen_of_the_table():
    assert set(list_mappings()) == set(EXCLUDED)


@pytest.mark.parametrize("name", sorted(EXCLUDED))
def test_every_mapping_fits_the_schema_and_covers_its_target(name):
    folder = resource_folder("label_orders")
    content = json.loads((folder / "mappings" / f"{name}.json").read_text())
    jsonschema.validate(content, json.loads((folder / "schemas" / "mapping.schema.json").read_text()))
    mapping = LabelMapping.read(name)
    scored = [value for mapped in mapping.classes for value in mapping.target_values(mapped)]
    assert sorted(mapping.excluded.values()) == EXCLUDED[name]
    assert sorted([*scored, *mapping.excluded.values()]) == list(mapping.target_order.values)


@pytest.mark.parametrize("order", ["stunet_totalsegmentator", "monai_wholebody", "totalsegmentator_v2"])
def test_predictions_may_come_in_any_order_that_knows_the_names(order):
    predictions = LabelOrder.read(order)
    lungs = next(mapped for mapped in LabelMapping.read("ct_org").classes if mapped.name == "lungs")
    assert len({predictions.value(name) for name in lungs.source}) == 5


def test_wrong_names_are_refused(tmp_path):
    with pytest.raises(UserError, match="btcv_abdomen"):
        LabelMapping.read("btcv")
    content = json.loads((resource_folder("label_orders") / "mappings" / "segthor.json").read_text())
    content["classes"][0]["source"] = ["oesophag"]
    (tmp_path / "mine.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="oesophag"):
        LabelMapping.read(tmp_path / "mine.json")
