"""How much work a grammar may make, the same wherever it is compiled and run."""

from __future__ import annotations

from typing import Any


def parser_limits() -> Any:
    """llguidance's limits: a grammar over them ends its own request with an error.

    The steps' fuel is what keeps one hostile grammar from holding up a whole batch: a mask is computed between two
    tokens of everybody's.
    """
    import llguidance

    return llguidance.LLParserLimits(
        max_items_in_row=1000,
        initial_lexer_fuel=500_000,
        step_lexer_fuel=100_000,
        step_max_items=20_000,
        max_lexer_states=50_000,
        max_grammar_size=300_000,
    )


def one_line(message: str) -> str:
    """A compiler's message, which draws arrows under lines, as one line for an error; without its inner state."""
    line = " ".join(message.partition("<state>")[0].split())
    return line if len(line) <= 300 else line[:300] + "…"
