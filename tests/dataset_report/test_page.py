"""The page itself: what it shows, and that it trusts and loads nothing."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from io import BytesIO

import matplotlib.image
import numpy as np
import pytest

from nnunetv2_ext.dataset_report.cases import read_raw_dataset
from nnunetv2_ext.dataset_report.report import report_dataset


@pytest.fixture
def page_of(tmp_path):
    """The text of the page of a dataset."""

    def write(folder):
        report = report_dataset(read_raw_dataset(str(folder)), tmp_path / "page", progress=False)
        return report.page.read_text(encoding="utf-8")

    return write


class _Loaded(HTMLParser):
    """Everything that a browser would load, and the names of all elements."""

    def __init__(self):
        super().__init__()
        self.found, self.elements = [], set()

    def handle_starttag(self, tag, attributes):
        self.elements.add(tag)
        self.found += [value for name, value in attributes if name in ("src", "href", "srcset", "data", "action")]


def test_pictures_are_in_the_page_and_nothing_is_loaded(raw_dataset, page_of):
    page = page_of(raw_dataset())
    parser = _Loaded()
    parser.feed(page)
    assert len(parser.found) == 8
    for address in parser.found:
        head, _, content = address.partition(",")
        assert head == "data:image/jpeg;base64"
        assert matplotlib.image.imread(BytesIO(base64.b64decode(content)), format="jpeg").shape == (160, 488, 3)
    assert not re.search(r"https?:|url\(|@import|//[a-z]", re.sub(r'base64,[^"]*', "", page))
    assert not parser.elements & {"script", "link", "iframe", "object", "form"}


def test_names_are_escaped(make_raw_dataset, usual_case, page_of):
    evil = "<script>alert('x')</script>"
    case = "a<img src=x onerror=y>"
    folder = make_raw_dataset("Dataset006_Evil", {"background": 0, evil: [1, 2, 3]}, {case: usual_case(0)}, order=[1])
    page = page_of(folder)
    assert "<script>" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in page
    assert "<strong>a&lt;img src=x onerror=y&gt;</strong>" in page


def test_classes_and_sources_have_their_numbers(raw_dataset, usual_case, page_of):
    labels = {"background": 0, "A/liver": [1, 1], "A/left": [2, 2], "B/liver": [1, 1], "B/right": [3, 3]}
    sources = {
        "A": {"classes": ["A/liver", "A/left"], "cases": [f"case_{number}" for number in range(5)]},
        "B": {"classes": ["B/liver", "B/right"], "cases": [f"case_{number}" for number in range(5, 8)]},
    }
    cases = {
        f"case_{number}": (image, np.where(label == (3 if number < 5 else 2), 0, label).astype(np.uint8))
        for number in range(8)
        for image, label in [usual_case(number)]
    }
    page = page_of(raw_dataset(cases, labels=labels, order=[1, 2, 1, 3], extra={"partial_labels": sources}))
    assert re.search(r"<td>A</td><td>5</td><td>A/liver, A/left</td>", page)
    assert re.search(r"<td>B</td><td>3</td><td>B/liver, B/right</td>", page)
    row = page[page.index("</span> A/left</td>") :].partition("</tr>")[0]
    assert re.findall(r"<td>(.*?)</td>", row)[:3] == ["2", "5", "5"]
    volumes = sorted((label == 2).sum() * 4.5 / 1000 for number in range(5) for _, label in [cases[f"case_{number}"]])
    shown = [float(text) for text in re.findall(r"<td>([\d.]+)</td>", row)[3:6]]
    assert shown == pytest.approx([volumes[0], volumes[2], volumes[4]], abs=0.005)


def test_an_image_that_occurs_twice_is_named_whatever_its_axes(raw_dataset, usual_case, page_of):
    image, label = usual_case(2)
    turned = {"copy": (image, label), "turned": (np.ascontiguousarray(image[::-1, :, ::-1]), label)}
    page = page_of(raw_dataset(turned))
    assert re.search(r"<li>case_2, copy, turned: ", page)
