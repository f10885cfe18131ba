"""The grammars of chat answers take what mistral-common writes for each version, and nothing else."""

from __future__ import annotations

import re
from typing import Any

import llguidance
import pytest
from test_answer_parser import TOOLED, answer_tokens, calls_message, tokenizer_of, tokens_of

from ostro.core import constraints
from ostro.core.constraints import ResponseFormat, ToolPolicy
from ostro.core.errors import InvalidRequestError
from ostro.engine.constraints import Grammars
from ostro.tokenizer import Tokenizer
from ostro.tokenizer.grammars import chat_constraint

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": CITY}},
    {"type": "function", "function": {"name": "now"}},
]
STRICT = [{"type": "function", "function": {"name": "weather", "parameters": CITY, "strict": True}}]
REQUIRED, AUTO, NONE = ToolPolicy("required"), ToolPolicy("auto"), ToolPolicy("none")
TEXT = ResponseFormat()
DIGITS = ResponseFormat("regex", "[0-9]+")
PARIS = ("weather", {"city": "Paris"})

_matchers: dict[tuple[str, str], llguidance.LLMatcher] = {}
_grammars: dict[str, Grammars] = {}


def takes(version: str, constraint: str | None, tokens: list[int]) -> bool:
    """Whether the tokens are a whole answer by the grammar."""
    assert constraint is not None
    tokenizer = tokenizer_of(version)
    if version not in _grammars:
        _grammars[version] = Grammars(lambda: tokenizer, tokenizer.vocab_size)
    _grammars[version].compile(constraint).result()
    matcher = _grammars[version].matcher(constraint)
    return bool(
        matcher.validate_tokens(tokens) == len(tokens) and matcher.consume_tokens(tokens) and matcher.is_accepting()
    )


@pytest.mark.parametrize("version", ["v1", *TOOLED])
def test_forced_text_is_tokenised_exactly(version: str) -> None:
    """What must come next is tokenised to see what else may: a space too many there would break every JSON."""
    tokenizer = tokenizer_of(version)
    grammars = Grammars(lambda: tokenizer, tokenizer.vocab_size)
    constraint = constraints.regex('\\{"name": "[a-z]{2}", "é日": true\\}')
    grammars.compile(constraint).result()
    matcher = grammars.matcher(constraint)
    answer: list[int] = []
    while not matcher.is_stopped() and len(answer) < 60:
        mask = matcher.compute_bitmask()
        assert not matcher.is_error(), matcher.get_error()[:200]
        allowed = [token for token in range(tokenizer.vocab_size) if mask[token // 8] >> (token % 8) & 1]
        assert allowed
        answer.append(max(allowed, key=lambda token: len(tokenizer.token_bytes(token))))
        assert matcher.consume_token(answer[-1])
    text = b"".join(map(tokenizer.token_bytes, answer)).decode()
    assert re.fullmatch('\\{"name": "[a-z]{2}", "é日": true\\}', text)


def constraint_of(tokenizer: Tokenizer, **options: Any) -> str | None:
    given = {"tools": TOOLS, "policy": REQUIRED, "response": TEXT, **options}
    return chat_constraint(tokenizer, **given)


@pytest.mark.parametrize("version", TOOLED)
def test_forced_calls(version: str) -> None:
    tokenizer = tokenizer_of(version)
    one = answer_tokens(tokenizer, calls_message([PARIS]))
    two = answer_tokens(tokenizer, calls_message([PARIS, ("now", {})]))
    wrong = answer_tokens(tokenizer, calls_message([("weather", {"town": "Paris"})]))
    unknown = answer_tokens(tokenizer, calls_message([("snow", {})]))
    text = tokenizer.encode("Hello", bos=False)
    required = constraint_of(tokenizer)
    assert [takes(version, required, tokens) for tokens in (one, two, wrong, unknown, text, one[:-1])] == [
        True,
        True,
        False,
        False,
        False,
        False,
    ]
    single = constraint_of(tokenizer, policy=ToolPolicy("required", parallel=False))
    assert [takes(version, single, tokens) for tokens in (one, two)] == [True, False]
    named = constraint_of(tokenizer, policy=ToolPolicy("required", ("now",)))
    assert not takes(version, named, one)
    assert takes(version, named, answer_tokens(tokenizer, calls_message([("now", {})])))


@pytest.mark.parametrize("version", TOOLED)
def test_auto_is_text_or_calls(version: str) -> None:
    tokenizer = tokenizer_of(version)
    one = answer_tokens(tokenizer, calls_message([PARIS]))
    wrong = answer_tokens(tokenizer, calls_message([("weather", {"town": "Paris"})]))
    text = tokenizer.encode("Hello", bos=False)
    assert constraint_of(tokenizer, policy=AUTO) is None
    assert constraint_of(tokenizer, tools=[], policy=AUTO) is None
    assert constraint_of(tokenizer, policy=NONE) is None
    strict = constraint_of(tokenizer, tools=STRICT, policy=AUTO)
    assert [takes(version, strict, tokens) for tokens in (one, wrong, text, [*text, *one])] == [True, False, True, True]
    single = constraint_of(tokenizer, policy=ToolPolicy("auto", parallel=False))
    assert not takes(version, single, answer_tokens(tokenizer, calls_message([PARIS, PARIS])))
    digits = constraint_of(tokenizer, policy=AUTO, response=DIGITS)
    number = tokenizer.encode("42", bos=False)
    # A SentencePiece text begins with a space that is not one; the parser drops it, a grammar has to see it.
    number = number if tokenizer.token_bytes(number[0])[:1] != b" " else number[1:]
    assert [takes(version, digits, tokens) for tokens in (number, one, text)] == [True, True, False]


@pytest.mark.parametrize("version", ["v13", "v15"])
def test_a_model_may_think_first(version: str) -> None:
    tokenizer = tokenizer_of(version)
    thought = tokens_of(tokenizer, "«[THINK]»so«[/THINK]»")
    one = answer_tokens(tokenizer, calls_message([PARIS]))
    assert takes(version, constraint_of(tokenizer), [*thought, *one])
    number = tokenizer.encode("42", bos=False)
    digits = constraint_of(tokenizer, tools=[], response=DIGITS)
    assert takes(version, digits, [*thought, *number])
    assert not takes(version, digits, thought)


@pytest.mark.parametrize("kind", ["json_object", "json_schema", "grammar"])
def test_formats_of_text(kind: str) -> None:
    tokenizer = tokenizer_of("v13")
    value = {"json_schema": CITY, "grammar": 'start: "{" "}"'}.get(kind)
    constraint = constraint_of(tokenizer, tools=[], response=ResponseFormat(kind, value))  # type: ignore[arg-type]  # a parameter of the test
    accepted = {"json_object": '{"a": [1]}', "json_schema": '{"city": "Paris"}', "grammar": "{}"}[kind]
    assert takes("v13", constraint, tokenizer.encode(accepted, bos=False))
    assert not takes("v13", constraint, tokenizer.encode("[]", bos=False))
    assert not takes("v13", constraint, tokenizer.encode("{" + " " * 40 + "}", bos=False))


def test_keywords_that_cannot_be_enforced_are_refused_only_where_it_was_promised() -> None:
    tokenizer = tokenizer_of("v13")
    odd = {"type": "object", "properties": {"a": {"type": "array", "contains": {"const": 1}}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": odd}}
    one = answer_tokens(tokenizer, calls_message([("f", {"a": [2]})]))
    assert takes("v13", constraint_of(tokenizer, tools=[tool]), one)
    tool["function"]["strict"] = True  # type: ignore[index]  # untyped JSON, or another library's inside
    with pytest.raises(InvalidRequestError, match="contains"):
        takes("v13", constraint_of(tokenizer, tools=[tool]), one)
