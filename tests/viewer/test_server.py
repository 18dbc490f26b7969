from __future__ import annotations

import re
import threading
from http.client import HTTPConnection

import pytest

from nnunetv2_ext.utilities.errors import UserError
from nnunetv2_ext.viewer.scene import read_scene
from nnunetv2_ext.viewer.server import ViewServer


@pytest.fixture
def server(real_ct):
    scene = read_scene(real_ct / "ct.nii.gz", [real_ct / "totalsegmentator_v2_labels.nii.gz"], "totalsegmentator_v2")
    with ViewServer(scene, "</script><b>ct") as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server, scene
        server.shutdown()
        thread.join()


def _get(server, path, **headers):
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


def test_the_page_and_its_voxels_are_handed_out_and_nothing_else(server):
    server, scene = server
    status, page = _get(server, server.path)
    assert status == 200
    text = page.decode()
    assert "&lt;/script&gt;&lt;b&gt;ct" in text
    assert "<b>ct" not in text
    for name, voxels in scene.sources().items():
        assert _get(server, server.path + name) == (200, voxels.tobytes())
    for path in ("/", f"{server.path}nothing", f"{server.path}../../etc/passwd", server.path.rstrip("/")):
        assert _get(server, path)[0] == 404


def test_a_page_of_another_site_reads_nothing(server):
    server, _ = server
    assert _get(server, server.path, Host="example.org")[0] == 404


def test_it_listens_on_this_machine_alone_and_says_when_a_port_is_taken(server):
    server, scene = server
    assert server.server_address[0] == "127.0.0.1"
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{20,}/", server.address)
    for port in (server.server_port, 70000):
        with pytest.raises(UserError, match=f"but {port} is none"):
            ViewServer(scene, "ct", port)
