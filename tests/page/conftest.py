"""A Chromium, and nodes for it to visit."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path += [str(Path(__file__).parent.parent / folder) for folder in ("server", "link", "tokenizer")]

from nodes import Node, scripted_node
from page_script import SCRIPT


# Of a module, not of the session: playwright's event loop must not run on under others' tests.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        reason = "there is no Chromium; on Debian: apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Without its sandbox, because containers have none to give; what it visits is ours.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def scripted() -> Iterator[Node]:
    with scripted_node(SCRIPT) as node:
        yield node
