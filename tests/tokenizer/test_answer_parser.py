"""Answers are parsed back from the tokens that mistral-common writes for them, however the stream is cut."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_files import shipped, small_tekken

from ostro.tokenizer import Tokenizer
from ostro.tokenizer.answers import CallArguments, CallStart, Part, Reasoning, Text
from ostro.tokenizer.parser import AnswerParser

SHIPPED = {
    "v1": "tokenizer.model.v1",
    "v2": "mistral_instruct_tokenizer_240216.model.v2",
    "v3": "mistral_instruct_tokenizer_240323.model.v3",
    "v7": "mistral_instruct_tokenizer_241114.model.v7",
    "v3-tekken": "tekken_240911.json",
}
NEWER = ("v11", "v13", "v15")
TOOLED = [version for version in (*SHIPPED, *NEWER) if version != "v1"]
CALLS = [
    ("weather", {"city": 'Orléans \\ "quoted" [TOOL_CALLS] 日本', "days": [1, 2.5, None, True]}),
    ("now", {}),
]


def tokenizer_of(version: str) -> Tokenizer:
    return shipped(SHIPPED[version]) if version in SHIPPED else small_tekken(version)


def answer_tokens(tokenizer: Tokenizer, message: dict[str, Any]) -> list[int]:
    """What mistral-common writes for an assistant's message, as a model would have to answer: without the end."""
    from mistral_common.protocol.instruct.messages import AssistantMessage

    encoder = tokenizer._mistral.instruct_tokenizer  # type: ignore[attr-defined]  # untyped JSON, or another library's inside
    encoded = encoder.encode_assistant_message(AssistantMessage(**message), is_before_last_user_message=False)
    assert encoded[-1] in tokenizer.eos_ids
    return list(encoded[:-1])


def calls_message(calls: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    return {
        "tool_calls": [
            {
                "id": f"abcdefgh{index}",
                "function": {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)},
            }
            for index, (name, arguments) in enumerate(calls)
        ]
    }


def parse(tokenizer: Tokenizer, pushes: Sequence[Sequence[int]], **options: Any) -> list[Part]:
    """The joined parts of a stream; ids that the parser makes are its calls' numbers."""
    count = itertools.count()
    parser = AnswerParser(tokenizer, new_id=lambda: f"{next(count):09d}", **options)
    parts: list[Part] = []
    for push in pushes:
        parts += parser.push(push).parts
    parts += parser.finish()
    return joined(parts)


def joined(parts: Sequence[Part]) -> list[Part]:
    whole: list[Part] = []
    for part in parts:
        last = whole[-1] if whole else None
        match last, part:
            case (Text(a), Text(b)):
                whole[-1] = Text(a + b)
            case (Reasoning(a), Reasoning(b)):
                whole[-1] = Reasoning(a + b)
            case (CallArguments(i, a), CallArguments(j, b)) if i == j:
                whole[-1] = CallArguments(i, a + b)
            case _:
                whole.append(part)
    return whole


def called(parts: Sequence[Part]) -> list[tuple[str, Any]]:
    arguments = {part.index: part.text for part in parts if isinstance(part, CallArguments)}
    return [(part.name, json.loads(arguments[part.index])) for part in parts if isinstance(part, CallStart)]


@pytest.mark.parametrize("version", TOOLED)
def test_calls_are_what_mistral_common_wrote(version: str) -> None:
    tokenizer = tokenizer_of(version)
    tokens = answer_tokens(tokenizer, calls_message(CALLS))
    for pushes in ([tokens], [[token] for token in tokens]):
        parts = parse(tokenizer, pushes)
        assert called(parts) == CALLS
        assert all(isinstance(part, CallStart | CallArguments) for part in parts)


def test_ids_are_the_models_where_its_form_has_them() -> None:
    tokens = answer_tokens(small_tekken("v11"), calls_message(CALLS))
    starts = [part for part in parse(small_tekken("v11"), [tokens]) if isinstance(part, CallStart)]
    assert [start.id for start in starts] == ["abcdefgh0", "abcdefgh1"]


@pytest.mark.parametrize("version", ["v13", "v15"])
def test_thoughts_are_what_mistral_common_wrote(version: str) -> None:
    tokenizer = tokenizer_of(version)
    chunks = [{"type": "thinking", "thinking": "so [/THINK] 日本"}, {"type": "text", "text": "then"}]
    tokens = answer_tokens(tokenizer, {"content": chunks, **calls_message(CALLS)})
    parts = parse(tokenizer, [[token] for token in tokens])
    assert parts[:2] == [Reasoning("so [/THINK] 日本"), Text("then")]
    assert called(parts) == CALLS


@pytest.mark.parametrize("version", ["v1", "v3", "v7", "v11"])
def test_plain_text_is_text(version: str) -> None:
    tokenizer = tokenizer_of(version)
    text = "Hello, [TOOL_CALLS] <think> is text here 日本."
    assert parse(tokenizer, [[token] for token in tokenizer.encode(text, bos=False)]) == [Text(text)]


texts = st.text(st.sampled_from('ab 日é\n[]{}":,'), max_size=12)
objects = st.dictionaries(
    st.text('xyz"\\é', max_size=4), st.recursive(texts | st.integers() | st.none(), st.lists, max_leaves=4), max_size=3
)
calls = st.lists(st.tuples(st.text("abc_-09", min_size=1, max_size=8), objects), min_size=1, max_size=3)


@settings(max_examples=60)
@given(st.sampled_from(TOOLED), calls, texts, st.data())
def test_every_cut_gives_the_same_parts(version: str, made: Any, text: str, data: st.DataObject) -> None:
    tokenizer = tokenizer_of(version)
    tokens = tokenizer.encode(text, bos=False) + answer_tokens(tokenizer, calls_message(made))
    if tokenizer.can_reason and data.draw(st.booleans()):
        think, end = tokenizer.special_id("[THINK]"), tokenizer.special_id("[/THINK]")
        assert think is not None
        assert end is not None
        tokens = [think, *tokenizer.encode(text, bos=False), end, *tokens]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(tokens)), max_size=8)))
    pushes = [tokens[a:b] for a, b in itertools.pairwise([0, *cuts, len(tokens)])]
    stop = data.draw(st.lists(st.sampled_from(["ab", "é", "[]"]), max_size=2, unique=True))
    whole = parse(tokenizer, [tokens], stop=stop)
    assert parse(tokenizer, pushes, stop=stop) == whole
    assert parse(tokenizer, [[token] for token in tokens], stop=stop) == whole
    if not stop:
        assert called(whole) == [(name, arguments) for name, arguments in made]


@settings(max_examples=150)
@given(st.sampled_from([*TOOLED, "v1"]), st.booleans(), st.data())
def test_no_soup_of_tokens_breaks_it_or_leaks_a_marker(version: str, tools: bool, data: st.DataObject) -> None:
    tokenizer = tokenizer_of(version)
    special = [token for token in range(200) if token < tokenizer.vocab_size and tokenizer.is_special(token)]
    plain = tokenizer.encode('a [{"name": "f", "arguments": {"x": 1}}] f {"y": "b"} </think><think> \n 日', bos=False)
    tokens = data.draw(st.lists(st.sampled_from([*special, *plain, *plain]), max_size=40))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(tokens)), max_size=6)))
    parts = parse(tokenizer, [tokens], tools=tools)
    assert parse(tokenizer, [tokens[a:b] for a, b in itertools.pairwise([0, *cuts, len(tokens)])], tools=tools) == parts
    said = "".join(part.name if isinstance(part, CallStart) else part.text for part in parts)
    names = [tokenizer.token_bytes(token).decode("utf-8", "replace") for token in special]
    assert not [name for name in names if name.startswith("[") and name in said]
    starts = [part.index for part in parts if isinstance(part, CallStart)]
    assert starts == list(range(len(starts)))
    assert all(part.index < len(starts) for part in parts if isinstance(part, CallArguments))
    if not tools:
        assert not starts


def tokens_of(tokenizer: Tokenizer, line: str) -> list[int]:
    """Text in which names in angle quotes are control tokens."""
    ids: list[int] = []
    for index, piece in enumerate(line.replace("»", "«").split("«")):
        if index % 2:
            token = tokenizer.special_id(piece)
            assert token is not None
            ids.append(token)
        else:
            ids += tokenizer.encode(piece, bos=False)
    return ids


MALFORMED = [
    ("«[TOOL_CALLS]»no list at all", "no list at all"),
    ('«[TOOL_CALLS]»[{"name": 3, "arguments": {}}]', '[{"name": 3, "arguments": {}}]'),
    ('«[TOOL_CALLS]»[{"arguments": {"a": 1}}] end', '[{"arguments": {"a": 1}}] end'),
    ('«[TOOL_CALLS]»[{"na', '[{"na'),
    ('«[TOOL_CALLS]»[{name: "f"}]', '[{name: "f"}]'),
    ("before«[TOOL_CALLS]»", "before"),
    ("«[TOOL_CALLS]»[ 12 ]", "[ 12 ]"),
]


@pytest.mark.parametrize(("line", "text"), MALFORMED)
@pytest.mark.parametrize("version", ["v3", "v7", "v13"])
def test_what_is_no_call_is_text_and_nothing_is_lost(version: str, line: str, text: str) -> None:
    tokenizer = tokenizer_of(version)
    tokens = tokens_of(tokenizer, line)
    parts = parse(tokenizer, [[token] for token in tokens])
    assert parts == parse(tokenizer, [tokens])
    assert [type(part) for part in parts] == [Text]
    assert parts[0].text == text  # type: ignore[union-attr]  # untyped JSON, or another library's inside


@pytest.mark.parametrize("version", ["v3", "v13"])
def test_an_unfinished_call_keeps_what_came(version: str) -> None:
    tokenizer = tokenizer_of(version)
    line = '«[TOOL_CALLS]»[{"name": "f", "arguments": {"a": "b'
    if version == "v13":
        line = '«[TOOL_CALLS]» f\n«[ARGS]» {"a": "b'
    parts = parse(tokenizer, [tokens_of(tokenizer, line)])
    assert parts == [CallStart(0, "000000000", "f"), CallArguments(0, '{"a": "b')]


def test_arguments_in_other_forms_are_understood() -> None:
    tokenizer = tokenizer_of("v3")
    for line in (
        '«[TOOL_CALLS]»{"name": "f", "arguments": {"a": 1}}',
        '«[TOOL_CALLS]»[{"arguments": {"a": 1}, "name": "f"}]',
        '«[TOOL_CALLS]»[{"name": "f", "arguments": "{\\"a\\": 1}"}]',
        '«[TOOL_CALLS]»[{"name": "f", "more": 12, "arguments": {"a": 1}}]',
    ):
        assert called(parse(tokenizer, [tokens_of(tokenizer, line)])) == [("f", {"a": 1})], line
    with_id = '«[TOOL_CALLS]»[{"id": "abcDEF123", "name": "f", "arguments": {}}]'
    assert parse(tokenizer, [tokens_of(tokenizer, with_id)])[0] == CallStart(0, "abcDEF123", "f")
    assert called(parse(tokenizer_of("v13"), [tokens_of(tokenizer_of("v13"), '«[TOOL_CALLS]»[{"name": "f"}]')])) == [
        ("f", {})
    ]


def test_text_behind_calls_is_text() -> None:
    for version, line in (("v3", '«[TOOL_CALLS]»[{"name": "f"}] so'), ("v13", "«[TOOL_CALLS]»f«[ARGS]»{} so")):
        tokenizer = tokenizer_of(version)
        assert parse(tokenizer, [tokens_of(tokenizer, line)])[-1] == Text("so")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("<think>a</think>b", [Reasoning("a"), Text("b")]),
        (" \n<think>\na < b\n</think>\n\nc", [Reasoning("\na < b\n"), Text("c")]),
        ("<think>a", [Reasoning("a")]),
        ("<think>a</thin", [Reasoning("a</thin")]),
        ("<thin", [Text("<thin")]),
        ("b<think>a</think>", [Text("b<think>a</think>")]),
        ("<think>a</think>b<think>c", [Reasoning("a"), Text("b<think>c")]),
        ("  ", [Text("  ")]),
    ],
)
def test_written_thoughts(text: str, parts: list[Part]) -> None:
    tokenizer = tokenizer_of("v3-tekken")
    letters = [token for char in text for token in tokenizer.encode(char, bos=False)]
    assert parse(tokenizer, [[token] for token in letters]) == parts
    assert parse(tokenizer, [letters]) == parts
    assert parse(tokenizer, [letters], continuation=True) == [Text(text)]


def test_stop_strings_end_text_alone_and_not_before_min_tokens() -> None:
    tokenizer = tokenizer_of("v13")
    line = '«[THINK]»STOP«[/THINK]»one STOP two«[TOOL_CALLS]»f«[ARGS]»{"a": "STOP"}'
    tokens = tokens_of(tokenizer, line)
    parser = AnswerParser(tokenizer, stop=["STOP"])
    parsed = parser.push(tokens)
    assert parsed.parts == [Reasoning("STOP"), Text("one ")]
    assert parsed.stopped
    assert parser.stop_string == "STOP"
    assert parsed.consumed == len(tokens_of(tokenizer, "«[THINK]»STOP«[/THINK]»one STOP"))
    assert parser.finish() == []
    assert parser.push(tokens).consumed == 0
    whole = parse(tokenizer, [tokens], stop=["STOP"], min_tokens=len(tokens))
    assert whole[1] == Text("one STOP two")
    assert called(whole) == [("f", {"a": "STOP"})]


def test_reasoning_is_counted() -> None:
    tokenizer = tokenizer_of("v13")
    thought, said = tokenizer.encode("a thought", bos=False), tokenizer.encode("an answer", bos=False)
    tokens = [*tokens_of(tokenizer, "«[THINK]»"), *thought, *tokens_of(tokenizer, "«[/THINK]»"), *said]
    parser = AnswerParser(tokenizer)
    assert sum(parser.push([token]).reasoning for token in tokens) == len(thought) + 1  # the end's marker too
    assert parser.push([]).parts == []


def test_half_a_character_before_a_marker_is_shown_as_such() -> None:
    tokenizer = tokenizer_of("v13")
    first = next(token for token in range(tokenizer.vocab_size) if tokenizer.token_bytes(token) == b"\xe6")
    parts = parse(tokenizer, [[first, *tokens_of(tokenizer, "«[TOOL_CALLS]»f«[ARGS]»{}")]])
    assert parts[0] == Text("\ufffd")
    assert called(parts) == [("f", {})]


def test_markers_that_mean_nothing_in_a_thought_do_not_end_it() -> None:
    tokenizer = tokenizer_of("v13")
    line = "«[THINK]»one«[ARGS]»two«[CALL_ID]»three«[/THINK]»text"
    tokens = tokens_of(tokenizer, line)
    for pushes in ([tokens], [[token] for token in tokens]):
        assert parse(tokenizer, pushes) == [Reasoning("onetwothree"), Text("text")]


def test_an_answer_goes_on_within_the_prompts_thought() -> None:
    tokenizer = tokenizer_of("v13")
    prompt = tokens_of(tokenizer, "«[THINK]»It is")
    assert tokenizer.leaves_thinking(prompt)
    assert not tokenizer.leaves_thinking([*prompt, *tokens_of(tokenizer, "June«[/THINK]»So")])
    answer = tokens_of(tokenizer, " June.«[/THINK]»So")
    parts = parse(tokenizer, [answer], continuation=True, thinking=True)
    assert parts == [Reasoning(" June."), Text("So")]


def test_a_cut_call_whose_name_is_known_is_a_call() -> None:
    tokenizer = tokenizer_of("v3")
    for line, arguments in (
        ('«[TOOL_CALLS]»[{"name": "f"', ""),
        ('«[TOOL_CALLS]»[{"name": "f", "arguments": "{\\"a\\": \\u65e', '{"a": '),
        ('«[TOOL_CALLS]»[{"arguments": {"a": 1}, "name": "f", "i', '{"a": 1}'),
    ):
        parts = parse(tokenizer, [tokens_of(tokenizer, line)])
        assert parts[0] == CallStart(0, "000000000", "f"), line
        assert "".join(part.text for part in parts[1:] if isinstance(part, CallArguments)) == arguments, line


def test_names_are_trimmed_and_repeated_keys_make_no_second_call() -> None:
    tokenizer = tokenizer_of("v3")
    line = '«[TOOL_CALLS]»[{"name": " f ", "arguments": {"a": 1}, "arguments": {"b": 2}}]'
    assert called(parse(tokenizer, [tokens_of(tokenizer, line)])) == [("f", {"a": 1})]


def test_lone_surrogates_reach_neither_names_nor_arguments() -> None:
    tokenizer = tokenizer_of("v3")
    line = '«[TOOL_CALLS]»[{"name": "f\\ud800", "arguments": "\\ud800"}]'
    for part in parse(tokenizer, [tokens_of(tokenizer, line)]):
        (part.name if isinstance(part, CallStart) else part.text).encode()
