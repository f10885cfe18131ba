"""Markers in a vocabulary do not make a model think: a constraint lets it only where it is told to."""

from __future__ import annotations

import json

from tokenizer_files import SENTENCEPIECE, shipped, small_tekken

from ostro.core.constraints import ResponseFormat, ToolPolicy
from ostro.tokenizer.answers import Text
from ostro.tokenizer.grammars import chat_constraint
from ostro.tokenizer.parser import AnswerParser


def test_a_thought_that_the_prompt_began_has_to_end() -> None:
    tokenizer = small_tekken("v13")
    begin, end = (f"<[{tokenizer.special_id(name)}]>" for name in ("[THINK]", "[/THINK]"))
    constraint = chat_constraint(
        tokenizer, tools=(), policy=ToolPolicy(), response=ResponseFormat("json_object"), inside=True
    )
    assert constraint is not None
    lines = json.loads(constraint)["grammars"][0]["lark_grammar"].splitlines()
    assert lines[0] == f"start: TEXT? {end} ( format )"
    assert begin not in constraint


def test_under_a_format_all_text_is_text() -> None:
    """A space that the format wants first, and what only looks like a thought."""
    tokenizer = shipped(next(name for name in SENTENCEPIECE if "v3" in name))
    for text in (" abc", "<think>abc"):
        parser = AnswerParser(tokenizer, formatted=True)
        ids = [token for token in tokenizer.encode(text) if not tokenizer.is_special(token)]
        said = b"".join(tokenizer.token_bytes(token) for token in ids).decode()
        parts = [*parser.push(ids).parts, *parser.finish()]
        assert all(isinstance(part, Text) for part in parts)
        assert "".join(part.text for part in parts if isinstance(part, Text)) == said


def test_a_constraint_lets_a_model_think_only_where_it_is_told_to() -> None:
    tokenizer = small_tekken("v13")
    begin = f"<[{tokenizer.special_id('[THINK]')}]>"
    for thinks in (True, False):
        constraint = chat_constraint(
            tokenizer, tools=(), policy=ToolPolicy(), response=ResponseFormat("json_object"), thinks=thinks
        )
        assert constraint is not None
        assert (begin in constraint) == thinks
