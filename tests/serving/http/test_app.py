"""The server over a real port: what it answers, and what it refuses."""

from __future__ import annotations

import io
import socket
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import SimpleITK
from fixtures.bad_images import BAD
from fixtures.dicom_folders import oblique_grid
from fixtures.servers import HOSTILE_CLASS, UPLOAD_BYTES, ended

from nnunetv2_ext.images.label_maps import OUTPUT_TYPES
from nnunetv2_ext.images.reading import read_volume
from nnunetv2_ext.inference import Predictor

NOTICE = "Research use only; not a medical device."
FORM = {"content-type": "multipart/form-data; boundary=x"}


@pytest.fixture(scope="module")
def scan(tmp_path_factory, make_ct):
    file = tmp_path_factory.mktemp("scan") / "ct.nii.gz"
    SimpleITK.WriteImage(make_ct(), str(file))
    return file.read_bytes()


@pytest.fixture(scope="module")
def expected(tmp_path_factory, scan, softmax_model):
    """What the same model predicts from the same file, without a server."""
    file = tmp_path_factory.mktemp("same") / "ct.nii.gz"
    file.write_bytes(scan)
    image = Predictor.from_model_folder(softmax_model, device="cpu", mode="fast").predict(file)
    return SimpleITK.GetArrayFromImage(image)


def files_of(service):
    """Everything that is on the disk for jobs and kept scans."""
    return {
        path.relative_to(service.folder) for name in ("jobs", "scans") for path in (service.folder / name).rglob("*")
    }


def read(content, ending, tmp_path):
    file = tmp_path / f"answer.{ending}"
    file.write_bytes(content)
    return read_volume(file).array


@pytest.mark.parametrize("kind", OUTPUT_TYPES)
def test_a_scan_becomes_the_label_map_that_the_predictor_makes(client, scan, expected, tmp_path, kind):
    answer = client.post("/jobs", files={"file": ("ct", scan)}, data={"model": "organs", "output_type": kind})
    assert answer.status_code == 202, answer.text
    job = answer.json()["id"]
    assert answer.headers["location"] == f"/jobs/{job}"
    content = ended(client, job)
    assert (content["state"], content["progress"], content["notice"]) == ("done", 1.0, NOTICE)
    result = client.get(content["label_maps"][kind])
    assert result.headers["content-disposition"] == f'attachment; filename="{job}.{kind}"'
    assert result.headers["x-notice"] == NOTICE
    labels = read(result.content, kind, tmp_path)
    assert np.array_equal(labels, expected)
    assert len(np.unique(labels)) > 2
    volumes = {name: figures["voxels"] for name, figures in client.get(content["statistics"]).json()["classes"].items()}
    assert volumes == {
        name: int((expected == value).sum()) for value, name in enumerate(("liver", "spleen", "aorta"), 1)
    }


def test_several_formats_and_a_picture_of_one_job(client, scan, expected, tmp_path):
    data = {"model": "organs", "output_type": ["nrrd", "nii.gz"], "preview": "true"}
    content = ended(client, client.post("/jobs", files={"file": ("ct", scan)}, data=data).json()["id"])
    for kind in ("nrrd", "nii.gz"):
        assert np.array_equal(read(client.get(content["label_maps"][kind]).content, kind, tmp_path), expected)
    picture = client.get(content["preview"])
    assert picture.headers["content-type"] == "image/png"
    assert picture.content.startswith(b"\x89PNG")
    assert client.get(f"/jobs/{content['id']}/result?output_type=mha").status_code == 404
    assert client.delete(f"/jobs/{content['id']}").status_code == 200
    assert client.get(f"/jobs/{content['id']}").status_code == 404


def test_a_zipped_series_is_predicted_and_nobody_is_named(client, service, dicom_folder, softmax_model):
    array = np.random.default_rng(0).integers(-100, 200, (9, 14, 12)).astype(np.int16)
    dicom_folder.series("series", array, oblique_grid((12, 14, 9), (1.5, 1.5, 2.0)), patient="Muster")
    folder = dicom_folder.root / "series"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for slice_ in folder.iterdir():
            file.write(slice_, f"Muster/{slice_.name}")
    answer = client.post("/jobs", files={"file": ("Muster.zip", archive.getvalue())}, data={"model": "organs"})
    content = ended(client, answer.json()["id"])
    assert content["state"] == "done", content
    image = Predictor.from_model_folder(softmax_model, device="cpu", mode="fast").predict(folder)
    result = service.result(service.job(content["id"]), "label_map.nii.gz")
    assert np.array_equal(read_volume(result).array, SimpleITK.GetArrayFromImage(image))
    told = "".join(map(str, files_of(service))) + client.get(content["statistics"]).text + answer.text
    assert "Muster" not in told


def test_names_of_files_and_classes_lead_nowhere(client, service, scan, tmp_path_factory):
    before = {path for path in tmp_path_factory.getbasetemp().rglob("*") if service.folder not in path.parents}
    for name in ("../../../evil.nii.gz", "/etc/evil", "a\\..\\b", 'x"; filename="y', "e\u0301\u202e.gz", "%2e%2e%2fx"):
        answer = client.post("/jobs", files={"file": (name, scan)}, data={"model": "hostile"})
        content = ended(client, answer.json()["id"])
        assert content["state"] == "done"
        result = client.get(content["label_maps"]["nii.gz"])
        assert result.headers["content-disposition"] == f'attachment; filename="{content["id"]}.nii.gz"'
        assert set(client.get(content["statistics"]).json()["classes"]) == {"liver", HOSTILE_CLASS}
    assert before == {path for path in tmp_path_factory.getbasetemp().rglob("*") if service.folder not in path.parents}
    assert all(path.parts[0] in ("jobs", "scans") and ".." not in path.parts for path in files_of(service))


def packed(members):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return content.getvalue()


def bad_file(kind):
    """Makes the file of a kind of bad image."""

    def make(tmp_path):
        ending, write = BAD[kind]
        file = tmp_path / f"bad{ending}"
        write(file)
        return {"files": {"file": ("ct.nii.gz", file.read_bytes())}, "data": {"model": "organs"}}

    return make


def sent(content, **data):
    return {"files": {"file": ("ct.nii.gz", content)}, "data": {"model": "organs", **data}}


GOOD = b"\x5c\x01\x00\x00"
JOBS = {
    "nothing": ({}, 415),
    "JSON": ({"json": {"file": "x"}}, 415),
    "an empty form": ({"content": b"", "headers": FORM}, 400),
    "a form without boundary": ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400),
    "a form that is cut": ({"content": b'--x\r\nContent-Disposition: form-data; name="file"', "headers": FORM}, 400),
    "no form": ({"content": b"GARBAGE", "headers": FORM}, 400),
    "a character set that is none": (
        {
            "content": b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\n\xff\xfe..\r\n--x--\r\n',
            "headers": {"content-type": "multipart/form-data; boundary=x; charset=idna"},
        },
        400,
    ),
    "text for a file": ({"files": {"x": ("x", b"")}, "data": {"file": "text", "model": "organs"}}, 400),
    "no file": ({"files": {"model": (None, b"organs")}}, 400),
    "an empty file": (sent(b""), 400),
    "another file": (sent(b"%PDF-1.7 no scan"), 415),
    "a NIfTI of four bytes": (sent(GOOD), 422),
    "a cut archive": (sent(packed({"a": bytes(5000)})[:-40]), 422),
    "an archive that leads out": (sent(packed({"../../evil": b"x"})), 422),
    "a bomb": (sent(packed({"zeros": bytes(UPLOAD_BYTES + 1)})), 413),
    "many members": (sent(packed({str(number): b"" for number in range(20_001)})), 413),
    "an archive of an archive": (sent(packed({"a.zip": packed({"a": b"x"})})), 422),
    "an unknown model": (sent(GOOD, model="strange"), 404),
    "a model that is a path": (sent(GOOD, model="../../etc/passwd"), 404),
    "no model": ({"files": {"file": ("x", GOOD)}}, 404),
    "two models": (sent(GOOD, model=["organs", "hostile"]), 400),
    "a model that is a file": ({"files": {"file": ("x", GOOD), "model": ("x", b"organs")}}, 400),
    "an unknown format": (sent(GOOD, output_type="../../x"), 422),
    "a preview that is none": (sent(GOOD, preview="perhaps"), 400),
    "an unknown part": (sent(GOOD, folds="all"), 400),
    "many parts": (sent(GOOD, output_type=["nrrd"] * 20), 400),
    "a long part": (sent(GOOD, output_type="x" * 70_000), 400),
    "many files": ({"files": [("file", ("x", GOOD))] * 20, "data": {"model": "organs"}}, 400),
    "two channels": ({"files": [("file", ("x", GOOD))] * 2, "data": {"model": "organs"}}, 422),
    **{kind: (bad_file(kind), None) for kind in BAD if "pipe" not in kind},
}


@pytest.mark.parametrize("kind", JOBS)
def test_what_is_no_scan_is_refused_with_the_reason_and_leaves_nothing(client, service, tmp_path, kind):
    request, status = JOBS[kind]
    request = request(tmp_path) if callable(request) else request
    before, counts = files_of(service), service.store.counts()
    answer = client.post("/jobs", **request)
    assert answer.status_code == status or (status is None and 400 <= answer.status_code < 500), answer.text
    content = answer.json()
    assert set(content) == {"error", "notice"}
    assert content["error"].strip().endswith((".", "?")), content
    assert str(service.folder) not in content["error"]
    assert files_of(service) == before
    assert service.store.counts() == counts


UNKNOWN = "0" * 32
CALLS = {
    ("GET", f"/jobs/{UNKNOWN}"): 404,
    ("DELETE", f"/jobs/{UNKNOWN}"): 404,
    ("GET", f"/jobs/{UNKNOWN}/result"): 404,
    ("GET", f"/jobs/{UNKNOWN}/statistics"): 404,
    ("GET", f"/jobs/{UNKNOWN}/preview"): 404,
    ("GET", "/jobs/..%2f..%2fjobs.sqlite"): 404,
    ("GET", "/jobs/%00"): 404,
    ("GET", "/jobs/' OR 1=1 --"): 404,
    ("GET", "/jobs/.."): 404,
    ("GET", "//etc/passwd"): 404,
    ("GET", "/nothing"): 404,
    ("PUT", "/jobs"): 405,
    ("POST", "/health"): 405,
    ("GET", "/infer/organs"): 405,
    ("POST", "/infer/strange"): 404,
    ("POST", "/infer/organs"): 415,
    ("PUT", "/session/"): 415,
    ("GET", "/session/..%2f..%2fjobs"): 404,
    ("DELETE", "/session/.."): 404,
    ("DELETE", f"/session/{UNKNOWN}"): 404,
}


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_every_answer_is_json_with_the_reason(client, service, method):
    calls = [(path, status) for (its_method, path), status in CALLS.items() if its_method == method]
    assert calls
    before = files_of(service)
    for path, status in calls:
        answer = client.request(method, path)
        assert (answer.status_code, set(answer.json())) == (status, {"error", "notice"}), path
        assert answer.headers["x-notice"] == NOTICE
    assert files_of(service) == before


@pytest.mark.parametrize(("path", "name"), [("/infer/organs", "file"), ("/session/", "files")])
def test_other_forms_are_refused_alike(client, service, path, name):
    method, before = ("POST" if path.startswith("/infer") else "PUT"), files_of(service)
    for content, status in ((b"", 400), (b"garbage", 415), (GOOD, 422), (packed({"../x": b""}), 422)):
        answer = client.request(method, path, files={name: ("x", content)}, data={"params": "{}"})
        assert (answer.status_code, set(answer.json())) == (status, {"error", "notice"}), answer.text
    for data in ({"params": "no JSON"}, {"params": "[" * 10_000}, {"params": "[]"}, {"params": "\ud800"}):
        if method == "POST":
            odd: Any = {key: value.encode("utf-8", "surrogatepass") for key, value in data.items()}
            assert client.post(path, files={"file": ("x", GOOD)}, data=odd).status_code in (400, 422)
    assert client.request(method, path, files={"other": ("x", GOOD)}).status_code == 400
    assert files_of(service) == before


def test_more_than_is_admitted_is_refused_whether_it_is_announced_or_not(client, service):
    before = files_of(service)
    url = urlsplit(str(client.base_url))
    host, address = url.netloc, (url.hostname, url.port or 80)
    with socket.create_connection(address, timeout=10) as connection:
        head = f"POST /jobs HTTP/1.1\r\nHost: {host}\r\nContent-Type: {FORM['content-type']}\r\nContent-Length: "
        connection.sendall(f"{head}{10 << 30}\r\n\r\n".encode())
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 413 ")
    for length in ("-1", "many"):
        with socket.create_connection(address, timeout=10) as connection:
            connection.sendall(f"{head}{length}\r\n\r\n".encode())
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 4")

    def chunks():
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(UPLOAD_BYTES // (1 << 18) + 1):
            yield bytes(1 << 18)

    answer = client.post("/jobs", content=chunks(), headers=FORM)
    assert answer.status_code == 413
    assert "at most 4 MiB" in answer.json()["error"]
    assert files_of(service) == before


def test_forty_requests_of_eight_clients_are_each_answered_once(client, service, scan, expected, monkeypatch):
    from nnunetv2_ext.serving import worker

    ended_once, end = [], service.store.end
    monkeypatch.setattr(service.store, "end", lambda job, error=None: end(job, error) and not ended_once.append(job))
    loads = worker._predictor.cache_info().misses
    lock, jobs = threading.Lock(), []

    def ask(_):
        answer = client.post("/jobs", files={"file": ("ct", scan)}, data={"model": "organs"})
        assert answer.status_code == 202
        with lock:
            jobs.append(answer.json()["id"])
        content = ended(client, answer.json()["id"], 120)
        return client.get(content["label_maps"]["nii.gz"]).content

    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(ask, range(40)))
    assert len(set(jobs)) == 40
    assert sorted(ended_once) == sorted(jobs)
    assert worker._predictor.cache_info().misses == loads
    first = service.result(service.job(jobs[0]), "label_map.nii.gz")
    assert np.array_equal(read_volume(first).array, expected)
    assert set(answers) == {first.read_bytes()}
    # The scan of a patient stays no longer than it is needed.
    assert not list(service.folder.glob("jobs/*/input"))


def test_health_metrics_models_and_the_list_of_jobs(client, service):
    health = client.get("/health").json()
    assert (health["status"], health["notice"]) == ("ok", NOTICE)
    metrics = client.get("/metrics").text
    assert f"nnunetv2_ext_jobs_accepted_total {service.counters.accepted}\n" in metrics
    assert f'nnunetv2_ext_jobs{{state="done"}} {service.store.counts()["done"]}\n' in metrics
    models = client.get("/models").json()
    assert models["models"]["organs"]["classes"][""] == {"liver": 1, "spleen": 2, "aorta": 3}
    assert models["models"]["organs"]["channels"] == ["CT"]
    assert models["output_types"] == list(OUTPUT_TYPES)
    assert len(client.get("/jobs").json()["jobs"]) == sum(service.store.counts().values())


def test_the_description_names_every_endpoint(client):
    description = client.get("/openapi.json").json()
    assert description["openapi"].startswith("3.1")
    assert description["info"]["description"] == NOTICE
    form = description["paths"]["/jobs"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(form["properties"]) == {"file", "model", "output_type", "preview"}
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"]
            assert {each["name"] for each in operation["parameters"] if each["in"] == "path"} == {
                part.strip("{}") for part in path.split("/") if part.startswith("{")
            }
            answer = client.request(method, path.replace("{", "").replace("}", ""))
            assert answer.status_code != 405, (method, path)
