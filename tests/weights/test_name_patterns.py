"""Patterns of layers' names match as Python's do, and none takes long."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ostro.core.errors import ConfigError
from ostro.weights.quantised.patterns import MAX_DEPTH, MAX_LENGTH, Pattern

NAMES = [
    *(f"model.layers.{i}.{part}" for i in (0, 11) for part in ("self_attn.q_proj", "mlp.gate_proj", "mlp.down_proj")),
    "model.language_model.embed_tokens",
    "lm_head",
    "",
]
WRITTEN = [
    r".*lm_head",
    r".*mlp\.(gate|up)_proj$",
    r"model.layers.[0-9]{1,2}.mlp.*_proj",
    r"^(?!.*mlp\.).*$",
    r"model\.layers\.(?:0|1[0-9])\.(?P<part>self_attn|mlp)\b",
    r"model\.layers\.\d+\.[^.]+\.(q|gate)_proj",
    r"(?=.*down).*layers\.1{2,}?\.",
    r"|lm",
    r"(?:x|)*lm_head\Z",
]


@pytest.mark.parametrize("text", WRITTEN)
def test_patterns_as_makers_write_them(text: str) -> None:
    found = [bool(Pattern(text).matches(name)) for name in NAMES]
    assert found == [re.match(text, name) is not None for name in NAMES]
    assert any(found)


def _groups(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    repeats = st.sampled_from(["", "*", "+", "?", "{2}", "{1,2}", "{,3}", "{2,}", "*?", "{0}"])
    openings = st.sampled_from(["(", "(?:", "(?=", "(?!"])
    return st.one_of(
        st.builds("{}{}){}".format, openings, inner, repeats),
        st.builds("{}{}".format, inner, inner),
        st.builds("{}|{}".format, inner, inner),
    )


ATOMS = st.sampled_from(["a", "b", ".", r"\.", "[ab]", "[^a.]", r"\w", "$", "^", r"\b", "a*", "b+?", "[]a]?", ".{,2}"])


@settings(deadline=None, max_examples=300)
@given(st.recursive(ATOMS, _groups, max_leaves=8), st.text("ab.", max_size=6))
@example("(?:^a?|b){3}$", "aba")
@example("(a|ab)(c|bcd){1,2}$", "abcd")
def test_the_same_names_as_python_matches(text: str, name: str) -> None:
    assert Pattern(text).matches(name) == (re.match(text, name) is not None)


@pytest.mark.parametrize(
    "text",
    ["(.+)+#", "(.|.)*#", ".*" * 40 + "#", "((.?){60}){60}#", "((((((.+)+.)+.)+.)+.)+.)+#", "(?:(?=(.*)*#).)*#"],
)
def test_no_pattern_takes_long(text: str) -> None:
    started = time.perf_counter()
    assert not Pattern(text).matches("model.layers.31.self_attn.q_proj." + "a" * 30)
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("(", "a group is not closed"),
        ("a)", "closes a group that it does not open"),
        ("*a", "nothing to repeat"),
        ("a**", "nothing to repeat"),
        ("(|*a)", "nothing to repeat"),
        ("a{3,2}", "ends before it begins"),
        ("[z-a]", "bad character range"),
        ("[a", "not understood"),
        (r"(a)\1", "not understood"),
        (r"(?<=a)b", "nothing to repeat"),
        ("(?i)a", "nothing to repeat"),
        ("a" * (MAX_LENGTH + 1), "1001 characters"),
        ("(" * (MAX_DEPTH + 1) + ")" * (MAX_DEPTH + 1), "more than 20 others"),
    ],
)
def test_what_is_refused(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        Pattern(text)
    assert len(caught.value.message) < 500


def test_steps_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ostro.weights.quantised.patterns.MAX_STEPS", 20)
    assert Pattern("model").matches("model.layers.0.mlp.down_proj")
    with pytest.raises(ConfigError, match="takes more than 20 steps"):
        Pattern(".*x").matches("model.layers.0.mlp.down_proj")
