"""An open page of a node, and what went over its wires."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from nodes import Node
from playwright.sync_api import Page, Request, expect

Open = Callable[..., Any]


class Visit:
    """An open page, and what went over its wires."""

    def __init__(self, page: Page, node: Node) -> None:
        self.page = page
        self.node = node
        self.problems: list[str] = []
        self.requests: list[Request] = []
        self.received = 0
        page.on("console", lambda said: self.problems.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("request", lambda request: self.requests.append(request))
        page.on("response", self._count)

    def _count(self, response: Any) -> None:
        if "/page/" in response.url or response.url.rstrip("/") == self.node.url:
            size = len(response.body())  # others are counted while this one comes
            self.received += size

    def ask(self, text: str) -> None:
        self.page.get_by_label("Message", exact=True).fill(text)
        self.page.keyboard.press("Enter")

    def finished(self, count: int = 1) -> None:
        expect(self.page.locator("article.answer")).to_have_count(count)
        expect(self.page.locator("article.answer.streaming")).to_have_count(0)

    def bodies(self) -> list[dict[str, Any]]:
        """What was asked of the chat endpoint so far."""
        sent = [one.post_data for one in self.requests if one.url.endswith("/v1/chat/completions")]
        return [json.loads(text) for text in sent if text]

    def settings(self, tab: str) -> None:
        if self.page.locator("#panel").is_hidden():
            self.page.get_by_role("button", name="Settings", exact=True).click()
        self.page.get_by_role("tab", name=tab).click()
