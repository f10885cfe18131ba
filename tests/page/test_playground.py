"""The playground in a real Chromium, against real server processes."""

from __future__ import annotations

import json
import re

import pytest
from nodes import Node, running_node, scripted_node
from page_script import SCRIPT
from playwright.sync_api import expect
from real_nodes import served
from visiting import Open

MAX_BYTES = 200_000


def test_an_answer_streams_and_shows_its_figures(visit: Open, scripted: Node) -> None:
    with visit(scripted) as seen:
        expect(seen.page.locator("#card")).to_contain_text("scripted")
        seen.ask("count")
        expect(seen.page.locator(".prose")).to_contain_text("one two three one")
        expect(seen.page.get_by_role("button", name="Stop")).to_be_visible()
        seen.page.keyboard.press("Escape")
        seen.finished()
        stopped = seen.page.locator(".prose").inner_text()
        assert stopped.startswith("one two three")
        expect(seen.page.locator(".figures")).to_contain_text("stopped")
        seen.ask("hello")
        seen.finished(2)
        figures = seen.page.locator(".figures").last
        expect(figures).to_contain_text(re.compile(r"first token\s*\d+ ms"))
        expect(figures).to_contain_text(re.compile(r"speed\s*\d+ tok/s"))
        expect(seen.page.locator(".prose").last).to_contain_text("Hi there, friend.")
        assert seen.page.locator(".prose").last.locator("strong").inner_text() == "friend"
        assert "print(1)" in seen.page.locator(".prose").last.locator("pre").inner_text()
        messages = seen.bodies()[-1]["messages"]
        assert [message["role"] for message in messages] == ["user", "assistant", "user"]
        assert messages[1]["content"].startswith("one two three")


def test_sampling_reaches_the_request(visit: Open, scripted: Node) -> None:
    with visit(scripted) as seen:
        seen.settings("Sampling")
        page = seen.page
        page.get_by_label("System prompt").fill("Be brief.")
        page.get_by_label("Temperature", exact=True).fill("0.3")
        page.get_by_label("Top p", exact=True).fill("0.9")
        page.get_by_label("Max tokens").fill("5")
        page.get_by_label("Seed").fill("7")
        page.get_by_label("Stop", exact=True).fill("END\\n")
        seen.ask("count")
        seen.finished()
        (body,) = seen.bodies()
        assert body["messages"][0] == {"role": "system", "content": "Be brief."}
        wanted = {"temperature": 0.3, "top_p": 0.9, "max_tokens": 5, "seed": 7, "stop": ["END\n"], "stream": True}
        assert {name: body[name] for name in wanted} == wanted
        page.reload()
        expect(page.get_by_label("Temperature", exact=True)).to_have_value("0.3")
        page.get_by_role("button", name="Reset").click()
        expect(page.get_by_label("Temperature", exact=True)).to_have_value("")


def test_a_value_out_of_range_is_told_and_not_sent(visit: Open, scripted: Node) -> None:
    with visit(scripted) as seen:
        seen.settings("Sampling")
        seen.page.get_by_label("Temperature", exact=True).fill("1000")
        seen.ask("hello")
        expect(seen.page.locator("#problem")).to_be_visible()
        assert seen.bodies() == []
        seen.page.get_by_label("Temperature", exact=True).fill("1")
        seen.ask("hello")
        seen.finished()


def test_nothing_is_lost_where_a_setting_keeps_a_request_back(visit: Open, scripted: Node) -> None:
    with visit(scripted) as seen:
        page = seen.page
        seen.settings("Tools")
        page.get_by_role("switch", name="Offer tools").click()
        seen.ask("weather")
        seen.finished()
        page.get_by_label("Result of weather").fill("21 degrees")
        seen.settings("Sampling")
        temperature = page.get_by_label("Temperature", exact=True)
        temperature.fill("1000")
        page.get_by_role("button", name="Send result").click()
        expect(page.locator("#problem")).to_be_visible()
        page.get_by_role("button", name="Answer again").click()
        page.get_by_role("button", name="Edit message").click()
        page.get_by_role("textbox", name="Edit message").fill("hello")
        page.get_by_role("button", name="Send again").click()
        expect(page.get_by_role("textbox", name="Edit message")).to_have_value("hello")
        page.get_by_role("button", name="Cancel").click()
        assert len(seen.bodies()) == 1
        expect(page.locator(".call")).to_contain_text('"city": "Paris"')
        temperature.fill("1")
        page.get_by_role("button", name="Send result").click()
        seen.finished(2)
        expect(page.locator(".prose").last).to_contain_text("It is warm in Paris.")


def test_a_call_is_answered_by_hand(visit: Open, scripted: Node) -> None:
    with visit(scripted) as seen:
        seen.settings("Tools")
        seen.page.get_by_role("switch", name="Offer tools").click()
        seen.ask("weather")
        seen.finished()
        card = seen.page.locator(".call")
        expect(card).to_contain_text("weather")
        expect(card).to_contain_text('"city": "Paris"')
        seen.page.get_by_label("Result of weather").fill("21 degrees")
        seen.page.get_by_role("button", name="Send result").click()
        seen.finished(2)
        expect(seen.page.locator(".prose").last).to_contain_text("It is warm in Paris.")
        first, second = seen.bodies()
        assert first["tools"][0]["function"]["name"] == "weather"
        call, result = second["messages"][-2:]
        call_id = call["tool_calls"][0]["id"]
        assert result == {"role": "tool", "tool_call_id": call_id, "content": "21 degrees", "name": "weather"}


def test_tools_that_are_no_json_are_told(visit: Open, scripted: Node) -> None:
    with visit(scripted) as seen:
        seen.settings("Tools")
        seen.page.get_by_role("switch", name="Offer tools").click()
        seen.page.locator("#tools-text").fill("[{")
        expect(seen.page.locator("#tools-said")).to_contain_text("Not valid JSON")
        seen.ask("hello")
        expect(seen.page.locator("#problem")).to_be_visible()
        assert seen.bodies() == []


def test_a_schema_reaches_the_request_and_the_answer_is_judged(visit: Open, scripted: Node) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    with visit(scripted) as seen:
        seen.settings("Format")
        seen.page.get_by_label("Answer is").select_option("json_schema")
        seen.page.locator("#format-text").fill(json.dumps(schema))
        seen.ask("city")
        seen.finished()
        sent = seen.bodies()[0]["response_format"]
        assert sent["type"] == "json_schema"
        assert sent["json_schema"]["schema"] == schema
        expect(seen.page.locator(".verdict")).to_have_class(re.compile("good"))
        expect(seen.page.locator(".answer")).to_contain_text("Paris")
        wrong = schema | {"required": ["name", "mayor"]}
        seen.page.locator("#format-text").fill(json.dumps(wrong))
        seen.ask("city")
        seen.finished(2)
        expect(seen.page.locator(".verdict").last).to_have_class(re.compile("bad"))


def test_reasoning_stands_apart(visit: Open, scripted: Node) -> None:
    with visit(scripted) as seen:
        seen.ask("think")
        seen.finished()
        expect(seen.page.locator(".thought summary")).to_contain_text("Thought for")
        seen.page.locator(".thought summary").click()
        expect(seen.page.locator(".thought-text")).to_have_text("First I wonder.")
        expect(seen.page.locator(".prose")).to_have_text("Then I say.")


def test_tokens_show_their_probabilities(visit: Open) -> None:
    """Of the embedded model, which has some."""
    with served("ostro-nano") as node:
        node.wait_ready()
        with visit(node) as seen:
            seen.settings("Sampling")
            seen.page.get_by_role("switch", name="Token probabilities").click()
            seen.page.get_by_label("Temperature", exact=True).fill("0")
            seen.page.locator(".start").first.click()
            seen.finished()
            text = seen.page.locator(".prose").inner_text()
            seen.page.get_by_role("button", name="Show tokens").click()
            tokens = seen.page.locator(".token")
            assert tokens.count() > 1
            joined = "".join(tokens.all_inner_texts()).replace("·", " ").replace("⏎", "\n")
            assert joined.startswith(text)
            tokens.first.focus()
            expect(seen.page.locator(".rivals li")).to_have_count(5)
            shares = [float(one.strip("<>%")) for one in seen.page.locator(".rivals .number").all_inner_texts()]
            assert shares == sorted(shares, reverse=True)
            assert 0 < sum(shares) <= 100.6
            before = seen.page.locator(".token-detail").inner_text()
            seen.page.keyboard.press("ArrowRight")
            expect(seen.page.locator(".token-detail")).not_to_have_text(before)


def test_a_key_is_asked_for_and_used(visit: Open) -> None:
    with scripted_node(SCRIPT, api_keys=["secret"]) as node, visit(node, refusals=True) as seen:
        dialog = seen.page.get_by_role("dialog", name=re.compile("API key|key"))
        expect(dialog).to_be_visible()
        seen.page.locator("#key").fill("wrong")
        seen.page.keyboard.press("Enter")
        expect(seen.page.get_by_role("dialog")).to_contain_text("does not know this key")
        seen.page.locator("#key").fill("secret")
        seen.page.keyboard.press("Enter")
        expect(seen.page.locator("#card")).to_contain_text("scripted")
        seen.ask("hello")
        seen.finished()
        expect(seen.page.locator(".prose")).to_contain_text("Hi there")
        kept = seen.page.evaluate("JSON.stringify({...localStorage})")
        assert "secret" not in kept


def test_an_error_is_shown_and_the_page_lives_on(visit: Open, scripted: Node) -> None:
    with visit(scripted, refusals=True) as seen:
        seen.ask("long " * 9000)
        seen.finished()
        failure = seen.page.locator(".failure")
        expect(failure).to_contain_text("context")
        expect(failure).to_contain_text("messages")
        seen.page.get_by_role("button", name="New conversation").click()
        expect(seen.page.locator("article")).to_have_count(0)
        seen.ask("hello")
        seen.finished()
        expect(seen.page.locator(".prose")).to_contain_text("Hi there")


def test_a_server_that_goes_away_is_told(visit: Open) -> None:
    with scripted_node(SCRIPT) as node, visit(node, refusals=True) as seen:
        expect(seen.page.locator("#card")).to_contain_text("scripted")
        node.process.kill()
        node.process.wait()
        seen.ask("hello")
        seen.finished()
        expect(seen.page.locator(".failure")).to_be_visible()


def test_what_a_model_says_is_text(visit: Open, scripted: Node) -> None:
    with visit(scripted) as seen:
        seen.ask("markup")
        seen.finished()
        expect(seen.page.locator(".prose")).to_contain_text('<img src=x onerror="window.hurt=1">')
        assert seen.page.locator(".prose img, .prose script").count() == 0
        assert seen.page.locator('.prose a[href^="javascript"]').count() == 0
        assert seen.page.locator(".prose strong").inner_text() == "bold"


def test_tables(visit: Open, scripted: Node) -> None:
    with visit(scripted) as seen:
        seen.ask("table")
        seen.finished()
        assert seen.page.locator(".prose th").all_inner_texts() == ["city", "code"]
        assert seen.page.locator(".prose td").all_inner_texts() == ["Paris", "a|b", "Lyon", ""]
        expect(seen.page.locator(".prose p")).to_have_text("Done.")


def test_the_keyboard_is_enough(visit: Open, scripted: Node) -> None:
    with visit(scripted) as seen:
        page, press = seen.page, seen.page.keyboard.press
        expect(page.locator("#card")).to_contain_text("scripted")
        expect(page.locator("#prompt")).to_be_focused()
        page.locator("#theme").focus()
        press("/")
        expect(page.locator("#prompt")).to_be_focused()
        page.keyboard.type("hello")
        press("Shift+Enter")
        page.keyboard.type("again")
        assert page.locator("#prompt").input_value() == "hello\nagain"
        press("Enter")
        seen.finished()
        assert seen.bodies()[0]["messages"][0]["content"] == "hello\nagain"
        opened = page.locator("#panel").is_visible()
        press("Control+,")
        expect(page.locator("#panel")).to_be_visible(visible=not opened)
        page.locator("#clear").focus()
        press("?")
        expect(page.locator("#help-dialog")).to_be_visible()
        press("Escape")
        expect(page.locator("#help-dialog")).to_be_hidden()
        press("Alt+e")
        expect(page.locator("#export-text")).to_contain_text("hello")
        page.get_by_role("tab", name="curl").click()
        expect(page.locator("#export-text")).to_contain_text("curl -N")
        press("Escape")
        reached = set()
        for _ in range(40):
            press("Tab")
            found = page.evaluate(
                "(() => { const e = document.activeElement, r = e.getBoundingClientRect();"
                " return [e.id || e.className, getComputedStyle(e).outlineStyle !== 'none' ||"
                " e.matches('#prompt, select, input, textarea'), r.width > 0] })()"
            )
            reached.add(found[0])
            assert found[1] or found[0] == "", f"focus does not show on {found[0]}"
        assert {"model", "clear", "export", "theme", "panel-toggle", "prompt"} <= reached
        press("Alt+n")
        expect(page.locator("article")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_themes(visit: Open, scripted: Node, scheme: str) -> None:
    with visit(scripted, color_scheme=scheme) as seen:

        def brightness() -> float:
            colour = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
            numbers = [float(one) for one in re.findall(r"[\d.]+", colour)][:3]
            return sum(numbers) / (765 if max(numbers) > 1 else 3)

        def is_dark() -> bool:
            return brightness() < 0.4

        assert is_dark() == (scheme == "dark")
        button = seen.page.locator("#theme")
        for _ in range(3):
            button.click()
            label = (button.get_attribute("aria-label") or "").lower()
            wanted = "dark" if "dark" in label else "light" if "light" in label else scheme
            assert is_dark() == (wanted == "dark"), label
            seen.page.reload()
            assert is_dark() == (wanted == "dark"), label


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (768, 1024), (375, 667)])
def test_nothing_runs_out_of_the_window(visit: Open, scripted: Node, width: int, height: int) -> None:
    with visit(scripted, viewport={"width": width, "height": height}) as seen:
        seen.ask("hello " + "unbroken" * 40)
        seen.finished()
        for tab in ("Sampling", "Tools", "Format"):
            seen.settings(tab)
            wide = seen.page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, tab
        seen.page.get_by_role("button", name="Close settings").click()
        box = seen.page.locator("#prompt").bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert box["y"] + box["height"] <= height


def test_the_whole_page_is_small_and_strict(visit: Open, scripted: Node) -> None:
    with visit(scripted) as seen:
        expect(seen.page.locator("#card")).to_contain_text("scripted")
        seen.page.wait_for_load_state("networkidle")
        files = [one for one in seen.requests if "/v1/" not in one.url and "/health" not in one.url]
        assert len(files) > 5
        assert 100_000 < seen.received < MAX_BYTES
        policy = scripted.http.get("/").headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy


def test_several_models_to_choose_from(visit: Open) -> None:
    script = {"say": {"script": {"hello": "I am say."}}, "tell": {"script": {"hello": "I am tell."}}}
    with running_node(program="scripted_node.py", models=script) as node, visit(node) as seen:
        seen.page.get_by_label("Model", exact=True).select_option("tell")
        seen.ask("hello")
        seen.finished()
        expect(seen.page.locator(".prose")).to_have_text("I am tell.")
        seen.page.get_by_label("Model", exact=True).select_option("say")
        seen.ask("hello")
        seen.finished(2)
        expect(seen.page.locator(".prose").last).to_have_text("I am say.")
