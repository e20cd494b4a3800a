"""The page in a real browser, where one is installed."""

from __future__ import annotations

import shutil
import subprocess
import urllib.parse
from pathlib import Path

import pytest

from tests.serve_process import ServerProcess

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")


def _page(url: str, profile: Path) -> str:
    """The page's elements once its scripts have run."""
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    offline = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    done = subprocess.run(
        [
            str(CHROMIUM),
            *quiet,
            *offline,
            f"--user-data-dir={profile}",
            "--virtual-time-budget=8000",
            "--dump-dom",
            url,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


def test_the_page_classifies_a_text(bundle: Path, tmp_path: Path) -> None:
    with ServerProcess(bundle) as server:
        text = "please cancel <b>my</b> order"
        page = _page(f"{server.url}/?text={urllib.parse.quote(text)}", tmp_path)
    assert "bundle" in page
    for label in ("cancel_order", "damaged_item", "login_problem"):
        assert label in page
    assert "%" in page
    assert "<b>my</b>" not in page
