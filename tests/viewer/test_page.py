"""The viewer's file, alone and in a real browser."""

from __future__ import annotations

import json
import re
import shutil

import nibabel as nib
import numpy as np
import pytest

from nnunetv2_ext.cli import view
from nnunetv2_ext.labels.label_order import LabelOrder

BROWSER = shutil.which("chromium-headless-shell") or shutil.which("chromium")


@pytest.fixture
def page(tmp_path, real_ct):
    files = [str(real_ct / name) for name in ("ct.nii.gz", "totalsegmentator_v2_labels.nii.gz")]
    target = tmp_path / "view.html"
    assert view.main([*files, "--order", "totalsegmentator_v2", "--html", str(target), "--quiet"]) == 0
    return target


def test_one_file_needs_nothing_else(page):
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"(?:src|href)\s*=|url\(|@import|https?://(?!www\.w3\.org)", text)
    assert "default-src 'none'" in text
    assert "not a medical device" in text


def test_hostile_names_stay_text(tmp_path, real_ct):
    name = "</script><img onerror=alert(1)>{{ 7 * 7 }}"
    order = tmp_path / "order.json"
    order.write_text(json.dumps({"name": "odd", "labels": {name: 5}}))
    files = [str(real_ct / file) for file in ("ct.nii.gz", "totalsegmentator_v2_labels.nii.gz")]
    assert view.main([*files, "--order", str(order), "--html", str(tmp_path / "view.html"), "--quiet"]) == 0
    text = (tmp_path / "view.html").read_text(encoding="utf-8")
    assert "<img" not in text
    (scene,) = re.findall(r'<script type="application/json" id="scene">(.*?)</script>', text, re.DOTALL)
    assert name in [each["name"] for each in json.loads(scene)["classes"]]


@pytest.fixture
def browser_page():
    if not BROWSER:
        pytest.skip("there is no chromium-headless-shell")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": 1280, "height": 900})
        browser.close()


@pytest.mark.system
def test_a_browser_shows_what_the_files_hold(page, browser_page, real_ct):
    playwright = pytest.importorskip("playwright.sync_api")
    errors = []
    browser_page.on("pageerror", lambda error: errors.append(str(error)))
    browser_page.on("request", lambda request: errors.append(request.url) if "view.html" not in request.url else None)
    browser_page.goto(page.as_uri())
    browser_page.wait_for_selector("body[data-ready=yes]", timeout=20_000)
    labels = np.asarray(nib.Nifti1Image.from_filename(real_ct / "totalsegmentator_v2_labels.nii.gz").dataobj)
    image = np.asarray(nib.Nifti1Image.from_filename(real_ct / "ct.nii.gz").dataobj)
    order = LabelOrder.read("totalsegmentator_v2")
    rng = np.random.default_rng(0)
    labelled = 0
    for click in range(12):
        box = browser_page.locator(".frame").nth(click % 3).bounding_box()
        across, down = rng.uniform(0.25, 0.75, 2)
        browser_page.mouse.click(box["x"] + across * box["width"], box["y"] + down * box["height"])
        found = re.fullmatch(
            r"voxel \((\d+), (\d+), (\d+)\) · .* mm · intensity (-?\d+) · (.*)", browser_page.inner_text("#readout")
        )
        assert found is not None
        voxel = tuple(map(int, found.groups()[:3]))
        value = int(labels[voxel])
        labelled += bool(value)
        assert found[5] == (next(iter(order.classes_of_value[value])) if value else "background")
        assert int(found[4]) == image[voxel]
    assert labelled > 3
    # Going to a class ends inside it; hiding all leaves grey pixels alone.
    browser_page.locator("#classes li", has_text="spleen").get_by_role("button").click()
    # The page draws, and says where it is, when the browser has time.
    readout = browser_page.locator("#readout")
    playwright.expect(readout).to_have_text(re.compile("spleen$"), timeout=20_000)
    pixels = "canvas => Array.from(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data)"

    def coloured():
        data = np.array(browser_page.locator("canvas").first.evaluate(pixels)).reshape(-1, 4)
        return bool((data[:, 0] != data[:, 1]).any())

    assert coloured()
    browser_page.click("#none")
    for _ in range(400):
        if not coloured():
            break
        browser_page.wait_for_timeout(50)
    assert not coloured()
    assert not errors
