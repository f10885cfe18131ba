"""A Chromium, and nodes for it to visit."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

sys.path += [str(Path(__file__).parent.parent / folder) for folder in ("server", "link", "tokenizer", "gateway")]

from nodes import Node, scripted_node
from page_script import SCRIPT
from visiting import Open, Visit


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
        # Without its sandbox, because containers have none to give; what it visits is ours. Its microphone beeps.
        options = ["--no-sandbox", "--use-fake-device-for-media-stream"]
        browser = playwright.chromium.launch(executable_path=path, args=options)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def scripted() -> Iterator[Node]:
    with scripted_node(SCRIPT) as node:
        yield node


@pytest.fixture
def visit(chromium: Any) -> Open:
    """Opens the page of a node; afterwards there must have been no error, and nothing from elsewhere."""

    @contextmanager
    def opened(node: Node, *, refusals: bool = False, **context: Any) -> Iterator[Visit]:
        options = {"viewport": {"width": 1280, "height": 800}, **context}
        with chromium.new_context(**options) as browser_context:
            browser_context.set_default_timeout(10_000)
            page = browser_context.new_page()
            seen = Visit(page, node)
            page.goto(node.url + "/")
            yield seen
            assert [one.url for one in seen.requests if not one.url.startswith((node.url, "data:", "blob:"))] == []
            assert page.evaluate("window.hurt") is None
            # Chromium reports each 4xx by itself.
            known = "Failed to load resource"
            assert [said for said in seen.problems if not (refusals and known in said)] == []

    return opened
