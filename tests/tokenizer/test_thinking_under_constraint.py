"""Markers in a vocabulary do not make a model think: a constraint lets it only where it is told to."""

from __future__ import annotations

from tokenizer_files import small_tekken

from ostro.core.constraints import ResponseFormat, ToolPolicy
from ostro.tokenizer.grammars import chat_constraint


def test_a_constraint_lets_a_model_think_only_where_it_is_told_to() -> None:
    tokenizer = small_tekken("v13")
    begin = f"<[{tokenizer.special_id('[THINK]')}]>"
    for thinks in (True, False):
        constraint = chat_constraint(
            tokenizer, tools=(), policy=ToolPolicy(), response=ResponseFormat("json_object"), thinks=thinks
        )
        assert constraint is not None
        assert (begin in constraint) == thinks
