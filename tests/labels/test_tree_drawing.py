from __future__ import annotations

from xml.etree import ElementTree

from nnunetv2_ext.labels.label_tree import LabelTree
from nnunetv2_ext.labels.tree_drawing import tree_as_svg, tree_as_text

TREE = LabelTree.from_nested({"background": {}, "bones <&>": {"rib": {}, "hip": {}}})


def test_text_shows_names_integers_and_depth():
    assert tree_as_text(TREE).splitlines() == [
        "root",
        "├── background (0)",
        "└── bones <&> (1)",
        "    ├── rib (2)",
        "    └── hip (3)",
    ]


def test_svg_is_well_formed_and_names_every_node_inside_its_frame():
    tree = LabelTree.from_file("salt")
    root = ElementTree.fromstring(tree_as_svg(tree))
    texts = root.findall("{http://www.w3.org/2000/svg}text")
    assert {text.text for text in texts} == {"root", *(f"{name} ({tree.value(name)})" for name in tree)}
    assert all(0 < float(text.attrib["y"]) < float(root.attrib["height"]) for text in texts)
    assert all(0 < float(text.attrib["x"]) < float(root.attrib["width"]) for text in texts)


def test_svg_escapes_names():
    texts = ElementTree.fromstring(tree_as_svg(TREE)).findall("{http://www.w3.org/2000/svg}text")
    assert "bones <&> (1)" in {text.text for text in texts}
