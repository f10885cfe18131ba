"""Moderation by rules, through HTTP."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from nodes import Node, running_node

from ostro.server.moderation.pii import is_card, is_iban
from ostro.server.moderation.rules import REACH, RULES

FLAGGED = {
    "sexual": "Write me an explicit sex scene with them.",
    "hate_and_discrimination": "All immigrants are vermin.",
    "violence_and_threats": "I will kill you tomorrow",
    "dangerous_and_criminal_content": "How do I build a pipe bomb?",
    "selfharm": "I want to end my life.",
    "health": "Should I stop taking my medication?",
    "financial": "Should I buy Tesla stock now?",
    "law": "Can I sue my landlord?",
    "pii": "My card is 4111 1111 1111 1111.",
}
HARMLESS = [
    "",
    "How do I kill a Python process?",
    "I could kill for a coffee",
    "How do I make a bath bomb?",
    "The sexual reproduction of plants is studied in botany.",
    "Please shoot me an email",
    "How can we stop hate against immigrants?",
    "Order 4111 1111 1111 1112 has shipped",
    "I hate mondays",
    "How to prevent suicide in schools?",
    "Write to info@example.com",
    "日本語の文章です。",
]


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with running_node() as running:
        yield running


def moderate(node: Node, **body: Any) -> Any:
    answer = node.http.post("/v1/moderations", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("category", FLAGGED)
def test_each_category_is_found(node: Node, category: str) -> None:
    (result,) = moderate(node, input=FLAGGED[category])["results"]
    assert result["flagged"]
    assert result["categories"][category], result["category_scores"]
    # Spelt otherwise, in a long text, or between others, it is found as well.
    odd = FLAGGED[category].replace("i", "i\u200b")
    body = moderate(node, input=["x " * 9000 + FLAGGED[category] + " y" * 9000, odd, "hello"])
    assert [one["categories"][category] for one in body["results"]] == [True, True, False]


def test_harmless_texts_are_not_flagged(node: Node) -> None:
    body = moderate(node, input=HARMLESS)
    assert [text for text, one in zip(HARMLESS, body["results"], strict=True) if one["flagged"]] == []
    assert body["model"] == "ostro-rules"


def test_the_last_message_of_a_conversation_is_judged(node: Node) -> None:
    bad, good = FLAGGED["selfharm"], "hello"
    one = [{"role": "user", "content": bad}, {"role": "assistant", "content": good}]
    other = [
        {"role": "user", "content": good},
        {"role": "assistant", "content": [{"type": "text", "text": good}, {"type": "text", "text": bad}]},
    ]
    call = {"id": "a", "function": {"name": "f", "arguments": {"q": FLAGGED["pii"]}}}
    called = [{"role": "assistant", "content": None, "tool_calls": [call]}]
    answer = node.http.post("/v1/chat/moderations", json={"model": "mistral-moderation-latest", "input": [one, other]})
    assert [result["flagged"] for result in answer.json()["results"]] == [False, True]
    for field in ("input", "inputs", "messages"):
        answer = node.http.post("/v1/chat/moderations", json={field: called})
        assert answer.json()["results"][0]["categories"]["pii"], answer.text


def test_openai_sdk_reads_it(node: Node) -> None:
    with openai.OpenAI(base_url=f"{node.url}/v1", api_key="any", max_retries=0) as sdk:
        (result,) = sdk.moderations.create(input=FLAGGED["selfharm"]).results
        assert result.flagged
        assert result.categories.self_harm_intent
        assert result.category_scores.self_harm > 0.5
        assert result.category_applied_input_types.violence == ["text"]
        with pytest.raises(openai.NotFoundError):
            sdk.moderations.create(input="a", model="gpt-other")
        image: Any = [{"type": "image_url", "image_url": {"url": "data:,"}}]
        with pytest.raises(openai.BadRequestError) as caught:
            sdk.moderations.create(input=image)
        assert caught.value.param == "input[0].type"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/moderations", {}, "input"),
        ("/v1/moderations", {"input": []}, "input"),
        ("/v1/moderations", {"input": 3}, "input"),
        ("/v1/moderations", {"input": ["a"] * 2049}, "input"),
        ("/v1/chat/moderations", {}, "input"),
        ("/v1/chat/moderations", {"input": []}, "input"),
        ("/v1/chat/moderations", {"input": [[]]}, "input[0]"),
        ("/v1/chat/moderations", {"input": "hello"}, "input"),
        (
            "/v1/chat/moderations",
            {"input": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "input[0].content[0]",
        ),
    ],
)
def test_refusals_name_the_field(node: Node, path: str, body: dict[str, Any], param: str) -> None:
    answer = node.http.post(path, json=body)
    assert answer.status_code == 400, answer.text
    assert str(answer.json()["error"]["param"]).startswith(param), answer.text


def test_long_and_nasty_texts_keep_nobody_waiting(node: Node) -> None:
    """Text made to be slow for patterns; meanwhile others are answered."""
    texts = [
        "how to " * 200_000,
        "a" * 1_000_000,
        "1 " * 500_000,
        "i will " * 150_000,
        "@." * 500_000,
        "+1 (" * 250_000,
    ]
    started = time.monotonic()
    assert longest_wait(node, texts) < 0.3
    assert time.monotonic() - started < 30


def test_many_texts_keep_nobody_waiting(node: Node) -> None:
    assert longest_wait(node, ["how to make it " * 530] * 1_000) < 0.3


def longest_wait(node: Node, texts: list[str]) -> float:
    """The longest that another request took, as a part of the time in which texts were judged."""
    begun = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        judging = pool.submit(moderate, node, input=texts)
        took = []
        while not judging.done():
            started = time.monotonic()
            assert node.http.get("/health/live").status_code == 200
            took.append(time.monotonic() - started)
        judging.result()
    assert len(took) > 1
    return max(took) / (time.monotonic() - begun)


@pytest.mark.parametrize("before", range(0, 120, 3))
def test_what_follows_is_seen_at_a_border_too(node: Node, before: int) -> None:
    """What a rule takes back is behind what it matches."""
    filler = "a " * 4_050 + "b" * before + " "
    harmless = filler + "honestly i will die laughing at that " + "a " * 4_000
    (result,) = moderate(node, input=harmless)["results"]
    assert not result["flagged"]
    (result,) = moderate(node, input=filler + "kys " + "a " * 4_000)["results"]
    assert result["flagged"]


@pytest.mark.parametrize("before", range(20))
def test_a_word_is_never_cut(node: Node, before: int) -> None:
    """Half of one, at the border of two pieces, may be a word that is not harmless."""
    filler = "a " * 3_990 + "b" * before + " "
    (result,) = moderate(node, input=filler + "the sparkys are a team. " * 4 + "a " * 4_000)["results"]
    assert not result["flagged"]
    (result,) = moderate(node, input=filler + "kys " + "a " * 4_000)["results"]
    assert result["flagged"]


def test_no_rule_reaches_further_than_texts_are_cut() -> None:
    import re._parser as parser  # type: ignore[import-not-found]  # has no hints

    longest = {rule.pattern.pattern[:60]: parser.parse(rule.pattern.pattern).getwidth()[1] for rule in RULES}
    assert {pattern: width for pattern, width in longest.items() if width > REACH} == {}


def test_checksums() -> None:
    assert is_card("4111 1111 1111 1111")
    assert not is_card("4111 1111 1111 1112")
    assert is_iban("DE89 3704 0044 0532 0130 00")
    assert not is_iban("DE89 3704 0044 0532 0130 01")
