"""Constrained answers are valid, whatever else is in the batch."""

from __future__ import annotations

import json
import re
import threading
from typing import Any

import jsonschema
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ostro import LLM, SamplingParams
from ostro.core import constraints
from ostro.core.constraints import ToolPolicy
from ostro.core.errors import InvalidRequestError
from ostro.core.request import EngineRequest
from ostro.tokenizer.grammars import chat_constraint

ROOM = 120


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM("ostro-nano", device="cpu", max_num_seqs=16, max_model_len=512)


@pytest.fixture(scope="module")
def guessing() -> LLM:
    """With drafts, so that a step has several masks for one sequence; and little room, so that some give way."""
    return LLM("ostro-nano", device="cpu", max_num_seqs=8, max_model_len=256, speculate=3, kv_memory=1_000_000)


names = st.text("abcxyz_", min_size=1, max_size=5)
literals = st.none() | st.booleans() | st.integers(-99, 99) | st.text('ab "\\é', max_size=4)


def bounded(low: int, high: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": min(low, high), "maximum": max(low, high)}


leaves = st.one_of(
    st.builds(lambda values: {"enum": values}, st.lists(literals, min_size=1, max_size=3, unique_by=repr)),
    st.builds(lambda value: {"const": value}, literals),
    st.builds(bounded, st.integers(-20, 200), st.integers(-20, 200)),
    st.builds(lambda most: {"type": "string", "maxLength": most}, st.integers(0, 6)),
    st.sampled_from(
        [
            {"type": "boolean"},
            {"type": "null"},
            {"type": "number", "minimum": 0, "maximum": 1},
            {"type": "string", "pattern": "^[A-F]{2}-\\d{1,3}$"},
            {"type": "string", "format": "date"},
            {"$ref": "#/$defs/id"},
        ]
    ),
)


def object_of(properties: dict[str, Any], wanted: int) -> dict[str, Any]:
    required = sorted(properties)[: max(1, wanted)]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def array_of(items: Any, least: int) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least, "maxItems": least + 2}


nested = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(object_of, st.dictionaries(names, inner, min_size=1, max_size=3), st.integers(0, 3)),
        st.builds(array_of, inner, st.integers(0, 2)),
        st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=2)),
    ),
    max_leaves=5,
)
schemas = nested.map(lambda schema: {**schema, "$defs": {"id": {"type": "string", "pattern": "^[a-z]{3}$"}}})
patterns = st.sampled_from(["[a-c]{3}/\\d{1,4}", "(yes|no|maybe)", 'a\\.b\\\\n"c\n?', "x{2,5}y*z", "[^\\n]{1,9}"])


def params(constraint: str | None, seed: int) -> SamplingParams:
    return SamplingParams(max_tokens=ROOM, temperature=0.7, seed=seed, constraint=constraint)


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(schemas, min_size=9, max_size=9), st.lists(patterns, min_size=5, max_size=5), st.integers(0, 999))
def test_a_mixed_batch_of_sixteen_is_valid(llm: LLM, many: list[Any], regexes: list[str], seed: int) -> None:
    made = [constraints.json_schema(schema) for schema in many]
    made += [constraints.regex(pattern) for pattern in regexes]
    batch = [params(constraint, seed + i) for i, constraint in enumerate([*made, None, constraints.json_object()])]
    outputs = llm.generate(["Answer in JSON: "] * 16, batch, progress=False)
    ended = 0
    for schema, output in zip(many, outputs[:9], strict=True):
        if output.finish_reason == "stop":
            ended += 1
            jsonschema.validate(json.loads(output.text), schema)
    for pattern, output in zip(regexes, outputs[9:14], strict=True):
        if output.finish_reason == "stop":
            ended += 1
            assert re.fullmatch(pattern, output.text), (pattern, output.text)
    if outputs[15].finish_reason == "stop":
        assert isinstance(json.loads(outputs[15].text), dict)
    assert ended >= 7, [output.text for output in outputs]


def test_drafts_and_giving_way_change_nothing(llm: LLM, guessing: LLM) -> None:
    schema = object_of({"a": array_of(bounded(10, 99), 3), "b": {"enum": ["xyz xyz xyz", "abc"]}}, 2)
    constraint = constraints.json_schema(schema)
    prompts = [f'{{"a":[11,11,11],"b":"xyz xyz xyz"}} {index} ' * 2 for index in range(8)]
    batch = [params(constraint, seed) for seed in range(8)]
    plain = llm.generate(prompts, batch, progress=False)
    drafted = guessing.generate(prompts, batch, progress=False)
    assert [output.token_ids for output in drafted] == [output.token_ids for output in plain]
    stats = guessing.engine.stats()
    assert stats.accepted_tokens > 0
    assert stats.preemptions > 0
    for output in drafted:
        if output.finish_reason == "stop":
            jsonschema.validate(json.loads(output.text), schema)


def test_forced_calls_are_valid_even_of_a_tiny_model(llm: LLM) -> None:
    tool = {
        "type": "function",
        "function": {"name": "weather", "parameters": object_of({"city": {"enum": ["Paris", "Lyon"]}}, 1)},
    }
    assert llm.tokenizer is not None
    constraint = chat_constraint(
        llm.tokenizer,
        tools=[tool],
        policy=ToolPolicy("required", parallel=False),
        response=constraints.ResponseFormat(),
        thinks=False,
    )
    for seed in range(4):
        (output,) = llm.chat(
            [{"role": "user", "content": "Weather?"}], params(constraint, seed), tools=[tool], progress=False
        )
        assert output.finish_reason == "tool_calls"
        assert [call.name for call in output.tool_calls] == ["weather"]
        assert json.loads(output.tool_calls[0].arguments)["city"] in ("Paris", "Lyon")


def test_a_finished_grammar_ends_the_answer_whatever_min_tokens_says(llm: LLM) -> None:
    one = SamplingParams(max_tokens=50, min_tokens=40, seed=1, constraint=constraints.regex("abc"))
    (output,) = llm.generate("x", one, progress=False)
    assert (output.text, output.finish_reason) == ("abc", "stop")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_drafts_behind_a_finished_grammar_are_no_answer(guessing: LLM, temperature: float) -> None:
    """The sentence is drafted whole from the prompt; what is sampled behind its last token must not be taken."""
    sentence = "the king of the world"
    one = SamplingParams(
        max_tokens=60, min_tokens=40, seed=3, temperature=temperature, constraint=constraints.regex(sentence)
    )
    (output,) = guessing.generate(f"{sentence} {sentence} {sentence} ", one, progress=False)
    assert (output.text, output.finish_reason) == (sentence, "stop")


def test_a_format_that_leaves_nothing_says_why(llm: LLM) -> None:
    one = SamplingParams(max_tokens=9, min_tokens=2, constraint=constraints.regex(""))
    with pytest.raises(InvalidRequestError, match=r"leaves no token .*min_tokens"):
        llm.generate("x", one, progress=False)


def test_many_formats_are_compiled_beside_the_steps(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, no running answer waits for a compilation."""
    grammars = llm.engine._grammars
    assert grammars is not None
    threads: list[str] = []
    compiling = grammars._compile

    def compile_here(constraint: str) -> Any:
        threads.append(threading.current_thread().name)
        return compiling(constraint)

    monkeypatch.setattr(grammars, "_compile", compile_here)
    params = [SamplingParams(max_tokens=4, seed=i, constraint=constraints.regex(f"a{i}")) for i in range(330)]
    outputs = llm.generate(["x"] * 330, params, progress=False)
    assert [output.text for output in outputs[:3]] == ["a0", "a1", "a2"]
    assert len(threads) >= 330
    assert all(name.startswith("grammars") for name in threads)


def test_logprobs_are_of_the_models_own_distribution(llm: LLM) -> None:
    free = llm.generate("To be", SamplingParams(max_tokens=1, logprobs=3, temperature=0), progress=False)[0]
    held = SamplingParams(max_tokens=1, logprobs=3, temperature=0, constraint=constraints.regex("[0-9]"))
    output = llm.generate("To be", held, progress=False)[0]
    assert free.logprobs is not None
    assert output.logprobs is not None
    assert output.text.isdigit()
    torch.testing.assert_close([v for _, v in output.logprobs[0].top], [v for _, v in free.logprobs[0].top])
    assert output.logprobs[0].logprob < output.logprobs[0].top[0][1]


def test_banned_tokens_never_come(llm: LLM) -> None:
    free = llm.generate("To be", SamplingParams(max_tokens=12, temperature=0), progress=False)[0]
    banned = sorted(set(free.token_ids))
    other = SamplingParams(max_tokens=12, temperature=0, banned_token_ids=banned)
    assert not set(llm.generate("To be", other, progress=False)[0].token_ids) & set(banned)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: constraints.regex("(a"), "unclosed group"),
        (lambda: constraints.regex("(?=a)b"), "look"),
        (lambda: constraints.lark("start: thing"), "thing"),
        (lambda: constraints.json_schema({"type": "object", "minProperties": "x"}), "minProperties"),
        (lambda: constraints.json_schema({"type": "no such type"}), "type"),
    ],
)
def test_what_cannot_be_compiled_is_refused_before_anything_runs(llm: LLM, make: Any, reason: str) -> None:
    with pytest.raises(InvalidRequestError, match=reason):
        llm.generate(["a", "b"], [SamplingParams(max_tokens=3), params(make(), 0)], progress=False)
    assert not llm.engine.has_work


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


@pytest.mark.parametrize(
    "make",
    [
        lambda: constraints.json_schema(deep(40)),
        lambda: constraints.json_schema({"enum": ["x" * 300_000]}),
        lambda: constraints.json_schema({"enum": list(range(30_000))}),
        lambda: constraints.json_schema({"minimum": float("nan")}),
        lambda: constraints.regex("a" * 20_000),
        lambda: constraints.regex("a\\"),
        lambda: constraints.lark("start: <[9]>"),
        lambda: constraints.lark('start: "a" <tool>'),
        lambda: constraints.lark("x" * 70_000),
        lambda: constraints.lark("root ::= ((("),
    ],
)
def test_sizes_and_control_tokens_are_refused_without_compiling(make: Any) -> None:
    with pytest.raises(InvalidRequestError):
        make()


def test_angle_brackets_in_text_are_no_tokens(llm: LLM) -> None:
    for grammar in ('start: "<b>" /[<>]/ "x<[9]>"', 'root ::= "<b>" [<>] "x<[9]>"'):
        output = llm.generate("x", params(constraints.lark(grammar), 3), progress=False)[0]
        assert re.fullmatch(r"<b>[<>]x<\[9\]>", output.text)


def test_a_constraint_needs_a_tokenizer_and_an_end(llm: LLM) -> None:
    request = EngineRequest(
        request_id="r",
        prompt_token_ids=[1],
        params=SamplingParams(max_tokens=4, ignore_eos=True, constraint=constraints.json_object()),
        seed=0,
    )
    with pytest.raises(InvalidRequestError, match="ignore_eos"):
        llm.engine.add(request)


@pytest.fixture
def engine_events(llm: LLM) -> Any:
    return lambda: [event for _ in range(400) for event in (llm.engine.step() if llm.engine.has_work else [])]


def test_a_grammar_that_fails_in_the_engine_ends_its_own_request_alone(llm: LLM, engine_events: Any) -> None:
    for name, constraint in (
        ("bad", '{"grammars": [{"lark_grammar": "start: ("}]}'),
        ("good", constraints.regex("ab")),
    ):
        llm.engine.add(
            EngineRequest(
                request_id=name, prompt_token_ids=[1, 5], params=params(constraint, 1), seed=1, stop_token_ids=[2]
            )
        )
    ends = {event.request_id: event for event in engine_events() if event.finish_reason is not None}
    assert ends["bad"].finish_reason == "error"
    assert "compiled" in (ends["bad"].error or "")
    assert ends["good"].finish_reason == "stop"
    assert not llm.engine.has_work


def test_a_request_may_be_aborted_while_its_grammar_is_compiled(llm: LLM) -> None:
    constraint = constraints.json_schema({"type": "array", "items": {"const": "not compiled before"}})
    llm.engine.add(EngineRequest(request_id="gone", prompt_token_ids=[1], params=params(constraint, 1), seed=1))
    assert llm.engine.stats().waiting == 1
    llm.engine.abort("gone")
    assert not llm.engine.has_work
    assert llm.engine.stats().waiting == 0
