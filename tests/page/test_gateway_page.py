"""The gateway's page in a real Chromium: a key is made and used, the spend moves, a node dies and comes back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from running import RunningGateway, asking, node, settings
from stub_node import StubNode

CHAT = "/v1/chat/completions"


@pytest.fixture
def stubs() -> Iterator[tuple[StubNode, StubNode]]:
    with StubNode() as first, StubNode() as second:
        yield first, second


@pytest.fixture
def gateway(tmp_path: Path, stubs: tuple[StubNode, StubNode]) -> Iterator[RunningGateway]:
    nodes = [node(stubs[0].url, "first"), node(stubs[1].url, "second", device="accelerator")]
    with RunningGateway(tmp_path, settings(*nodes, cache={"enabled": True})) as running:
        running.wait_for(running.key(name="waits"), nodes=2)
        yield running


@contextmanager
def opened(chromium: Any, gateway: RunningGateway, **options: Any) -> Iterator[Any]:
    """The page, entered with a key that administers; nothing came from elsewhere, and no script failed."""
    with chromium.new_context(viewport={"width": 1280, "height": 900}, **options) as context:
        context.set_default_timeout(10_000)
        page = context.new_page()
        asked: list[str] = []
        problems: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
        page.goto(gateway.url + "/")
        page.get_by_label("Key", exact=True).fill(gateway.key(name="admin", admin=True))
        page.get_by_role("button", name="Look").click()
        page.get_by_role("tab", name="Now").wait_for()
        yield page
        assert all(url.startswith((gateway.url, "blob:")) for url in asked)
        assert problems == []


def figure(page: Any, name: str) -> Any:
    return page.locator("#figures div", has=page.locator("dt", has_text=name)).locator("dd").first


def until(page: Any, locator: Any, text: str) -> None:
    locator.filter(has_text=text).first.wait_for()


def test_a_key_is_made_and_used_and_the_spend_moves(chromium: Any, gateway: RunningGateway) -> None:
    with opened(chromium, gateway) as page:
        assert figure(page, "Spent since the start").inner_text() == "$0.00"
        page.get_by_role("tab", name="Keys").click()
        page.get_by_text("Make a key").click()
        page.get_by_label("Name").first.fill("from the page")
        page.get_by_label("Tier").select_option("commercial")
        page.get_by_label("Budget, US dollars").fill("0.006")
        page.get_by_role("button", name="Make it").click()
        secret = page.locator("#secret code").inner_text()
        assert secret.startswith("ostro-")
        row = page.locator("#key-table tr", has_text="from the page")
        assert "$0.006" in row.inner_text()
        with gateway.client(secret) as client:
            codes = [client.post(CHAT, json=asking("count 30", stream=True)).status_code for _ in range(4)]
        assert codes == [200, 200, 200, 402]
        until(page, row.locator("td").nth(5), "$0.006")
        page.get_by_role("tab", name="Now").click()
        until(page, figure(page, "Spent since the start"), "$0.006")
        until(page, figure(page, "Tokens since the start"), "90")
        until(page, page.locator("#refusals"), "insufficient_quota")
        for chart in ("Calls per second", "Time of a call", "Spent in an hour at this pace"):
            line = page.locator(".chart", has_text=chart).first.locator("path.line[d*=L]")
            line.first.wait_for(state="attached")  # a line between points
        page.get_by_role("tab", name="Keys").click()
        page.on("dialog", lambda dialog: dialog.accept())
        row.get_by_role("button", name="Revoke").click()
        until(page, row, "revoked")
        with gateway.client(secret) as client:
            assert client.post(CHAT, json=asking("ok")).status_code == 401


def test_a_node_dies_and_returns(chromium: Any, gateway: RunningGateway, stubs: tuple[StubNode, StubNode]) -> None:
    with opened(chromium, gateway) as page:
        row = page.locator("#live-nodes tr", has_text="second")
        until(page, row, "answers")
        until(page, figure(page, "Nodes that answer"), "2 of 2")
        stubs[1].ready = False
        until(page, row, "away")
        until(page, row, "503")
        until(page, figure(page, "Nodes that answer"), "1 of 2")
        stubs[1].ready = True
        until(page, row, "answers")
        until(page, figure(page, "Nodes that answer"), "2 of 2")


def test_nodes_are_added_and_removed(chromium: Any, gateway: RunningGateway) -> None:
    with StubNode() as third, opened(chromium, gateway) as page:
        page.get_by_role("tab", name="Nodes").click()
        page.get_by_text("Add a node").click()
        page.locator("#node-form [name=name]").fill("third")
        page.locator("#node-form [name=url]").fill(third.url)
        page.locator("#node-form [name=models]").fill("m, other")
        page.get_by_role("button", name="Add it").click()
        row = page.locator("#node-table tr", has_text="third")
        until(page, row, "m, other")
        until(page, row, "answers")
        page.on("dialog", lambda dialog: dialog.accept())
        row.get_by_role("button", name="Remove").click()
        row.wait_for(state="detached")


def test_usage_is_shown_and_saved(chromium: Any, gateway: RunningGateway) -> None:
    with gateway.client(gateway.key(tenant="<b>acme</b>")) as client:
        for _ in range(3):
            client.post(CHAT, json=asking("ok"))
    with opened(chromium, gateway) as page:
        page.get_by_role("tab", name="Usage").click()
        page.locator("#usage-form [name=by]").select_option("model")
        page.get_by_role("button", name="Show").click()
        row = page.locator("#usage-table tr", has_text="<b>acme</b>")  # a name is text, whatever is in it
        until(page, row, "0.006")
        until(page, page.locator("#usage-table caption"), "$0.006 in all")
        with page.expect_download() as saving:
            page.get_by_role("button", name="Save as CSV").click()
        assert "0.006" in Path(saving.value.path()).read_text()


def test_a_key_that_may_not_is_told_so_and_none_is_kept(chromium: Any, gateway: RunningGateway) -> None:
    with chromium.new_context() as context:
        page = context.new_page()
        page.goto(gateway.url + "/")
        for key, words in ((gateway.key(), "takes a key that administers"), ("nonsense", "not known here")):
            page.get_by_label("Key", exact=True).fill(key)
            page.get_by_role("button", name="Look").click()
            page.locator("#banner", has_text=words).wait_for()
        page.get_by_label("Key", exact=True).fill(gateway.key(admin=True))
        page.get_by_role("button", name="Look").click()
        page.get_by_role("tab", name="Now").wait_for()
        assert page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie])") == '[{},{},""]'
        page.get_by_role("button", name="Forget the key").click()
        page.get_by_role("button", name="Look").wait_for()
        page.reload()
        page.get_by_role("button", name="Look").wait_for()


def test_the_page_is_open_and_sent_with_strict_headers(gateway: RunningGateway) -> None:
    with gateway.client(None) as client:
        page = client.get("/")
        assert page.status_code == 200
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert client.get("/", headers={"if-none-match": page.headers["etag"]}).status_code == 304
        assert client.get("/page/gateway.js").status_code == 200
        assert client.get("/page/none.js").status_code == 401
