"""Keys: who gets in, who may load bundles, and what a browser may do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from common.errors import InputError
from serve.access import AccessSettings, read_keys
from tests.serve_app import app_of

KEY, OTHER, ADMIN = "key-of-a-caller-0001", "key-of-another-00002", "key-of-the-admin-0003"
BODY = {"inputs": ["hello"]}
LOAD = "/v2/repository/models/bundle/load"


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def client(bundle: Path) -> Iterator[TestClient]:
    access = AccessSettings((KEY, OTHER), (ADMIN,), ("https://page.example",))
    with TestClient(app_of(bundle, access=access)) as client:
        yield client


@pytest.fixture(scope="module")
def open_client(bundle: Path) -> Iterator[TestClient]:
    with TestClient(app_of(bundle)) as client:
        yield client


@pytest.mark.parametrize("path", ["/v1/classify", "/predict", "/v2/models/bundle/infer", "/v2/repository/index", LOAD])
def test_without_a_key_nothing_is_told(client: TestClient, path: str) -> None:
    for headers in ({}, _bearer("wrong"), _bearer(KEY[:-1]), {"Authorization": f"Basic {KEY}"}, _bearer("")):
        response = client.post(path, json=BODY, headers=headers)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert "error" in response.json()


@pytest.mark.parametrize("path", ["/metrics", "/v1/model", "/v1/models", "/v2", "/nowhere", "/docs/x"])
def test_reading_takes_a_key_too(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 401
    assert client.get(path, headers=_bearer(OTHER)).status_code in (200, 404)


@pytest.mark.parametrize(
    "path", ["/", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/docs", "/openapi.json"]
)
def test_the_page_and_health_are_open(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 200


@pytest.mark.parametrize("key", [KEY, OTHER, ADMIN])
def test_each_key_opens(client: TestClient, key: str) -> None:
    assert client.post("/v1/classify", json=BODY, headers=_bearer(key)).status_code == 200
    assert client.post("/v1/classify", json=BODY, headers={"authorization": f"bearer  {key}"}).status_code == 200


def test_loading_takes_an_admin_key(client: TestClient) -> None:
    refused = client.post(LOAD, headers=_bearer(KEY))
    assert (refused.status_code, refused.json()) == (403, {"error": "this takes an admin key"})
    assert client.post(LOAD, headers=_bearer(ADMIN)).status_code == 200


@pytest.mark.parametrize("path", [f"{LOAD}%0A", f"{LOAD}%0D", f"{LOAD}/", f"/{LOAD}", LOAD.replace("load", "%6Coad")])
def test_no_other_way_to_write_the_path_leads_past_the_admin_key(
    client: TestClient, open_client: TestClient, teacher_bundle: Path, path: str
) -> None:
    body = {"parameters": {"bundle": str(teacher_bundle)}}
    for each, headers in ((client, _bearer(KEY)), (open_client, {})):
        before = each.get("/v1/model", headers=headers).json()["version"]
        assert each.post(path, json=body, headers=headers).status_code in (403, 404)
        assert each.get("/v1/model", headers=headers).json()["version"] == before


def test_without_admin_keys_nobody_loads(open_client: TestClient) -> None:
    assert open_client.post("/v1/classify", json=BODY).status_code == 200
    for headers in ({}, _bearer(ADMIN)):
        response = open_client.post(LOAD, headers=headers)
        assert response.status_code == 403
        assert "without admin keys" in response.json()["error"]


def test_other_origins_are_let_in_only_if_named(client: TestClient, open_client: TestClient) -> None:
    asked = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST",
             "Access-Control-Request-Headers": "authorization,content-type"}  # fmt: skip
    allowed = client.options("/v1/classify", headers=asked)
    assert allowed.headers["access-control-allow-origin"] == "https://page.example"
    assert (
        "access-control-allow-origin"
        not in client.options("/v1/classify", headers={**asked, "Origin": "https://evil.example"}).headers
    )
    assert "access-control-allow-origin" not in open_client.post("/v1/classify", json=BODY, headers=asked).headers


def test_keys_come_from_a_file_and_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# callers\n{KEY}  # the shop\n\n{OTHER}\n")
    monkeypatch.setenv("KEYS", f"{ADMIN} {KEY}")
    assert read_keys(file, "KEYS") == (ADMIN, KEY, OTHER)
    assert read_keys(None, "NONE_SUCH") == ()
    file.write_text("# nobody yet\n")
    with pytest.raises(InputError, match="holds no key"):
        read_keys(file, "NONE_SUCH")
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_keys(tmp_path / "absent", "NONE_SUCH")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not text"):
        read_keys(tmp_path / "binary", "NONE_SUCH")


def test_weak_keys_and_odd_origins_are_refused() -> None:
    for settings in (
        {"keys": ("short",)},
        {"admin_keys": ("with a space in it all",)},
        {"origins": ("page.example",)},
        {"origins": ("https://page.example/",)},
    ):
        with pytest.raises(InputError):
            AccessSettings(**settings)  # type: ignore[arg-type]
