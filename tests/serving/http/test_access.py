from __future__ import annotations

import pytest

pytest.importorskip("starlette")

from fixtures.servers import answering

from nnunetv2_ext.serving.http.access import LOOPBACK, read_token
from nnunetv2_ext.serving.http.app import Application
from nnunetv2_ext.utilities.errors import UserError

TOKEN = "0123456789abcdef"


def test_only_who_has_the_token_is_served(service):
    with answering(Application(service, TOKEN).asgi) as client:
        assert client.get("/health").status_code == 200
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}, {"Authorization": "Bearer"}):
            for path in ("/jobs", "/metrics", "/openapi.json", "/nothing"):
                answer = client.get(path, headers=headers)
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"] == "Bearer"
                assert set(answer.json()) == {"error", "notice"}
        assert client.get("/jobs", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_pages_of_other_sites_cannot_ask(service):
    with answering(Application(service, None, LOOPBACK).asgi) as client:
        host = client.base_url.netloc.decode()
        assert client.get("/jobs", headers={"Origin": f"http://{host}"}).status_code == 200
        for origin in ("http://example.org", "null", "http://127.0.0.1:1", f"http://{host}.example.org"):
            assert client.get("/jobs", headers={"Origin": origin}).status_code == 403
        for name in ("example.org", "127.0.0.1.example.org", "[", ""):
            assert client.get("/jobs", headers={"Host": name}).status_code == 421
        assert client.get("/jobs", headers={"Host": "localhost:80"}).status_code == 200


@pytest.mark.parametrize("text", ["", "short", "with spaces in it, long", "ümläute-ümläute-ümläute", None])
def test_a_token_is_a_secret(tmp_path, text):
    file = tmp_path / "token"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="Expected a token"):
        read_token(file)


def test_a_token_is_read_without_its_line_end(tmp_path):
    (tmp_path / "token").write_text(f"{TOKEN}\n", encoding="utf-8")
    assert read_token(tmp_path / "token") == TOKEN
