"""Grammars of whole chat answers: reasoning, text, calls in the form of the tokenizer's version.

A grammar is Lark as llguidance reads it, with control tokens by their ids (`<[9]>`) and JSON schemas in `%json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ostro.core import constraints
from ostro.core.constraints import ResponseFormat, ToolPolicy
from ostro.core.errors import InvalidRequestError
from ostro.tokenizer.base import Tokenizer
from ostro.tokenizer.tools import Function, read_tools

# Mistral's templates take nothing else.
_CALL_ID = "/[a-zA-Z0-9]{9}/"


def chat_constraint(
    tokenizer: Tokenizer,
    *,
    tools: Sequence[Mapping[str, Any]],
    policy: ToolPolicy,
    response: ResponseFormat,
    thinks: bool = True,
    inside: bool = False,
) -> str | None:
    """What the tokens of an answer must match; None where they are free.

    Forced calls (policy "required") always have arguments that are valid against their tool's `parameters`; keywords
    that cannot be enforced are passed over unless the tool is `strict`. With "auto" an answer is constrained where a
    tool is strict, where only some tools or one call are allowed, or where the text has a format: it is then that text
    or calls. With `thinks`, a model whose vocabulary has markers for it may think first. `inside` says that the prompt
    ends in a thought, which then has to end before anything else.
    Raises InvalidRequestError naming the field.
    """
    functions = read_tools(tools)
    calls = policy.mode != "none" and bool(functions)
    free = response.kind == "text"
    choosy = bool(policy.names) or not policy.parallel or any(function.strict for function in functions)
    if free and (not calls or (policy.mode == "auto" and not choosy)):
        return None
    rules = _Rules(tokenizer, thinks, inside)
    if calls:
        rules.calls([f for f in functions if not policy.names or f.name in policy.names], policy)
    if policy.mode == "auto" and calls:
        body = "TEXT? calls | TEXT?" if free else "calls | format"
    else:
        body = "calls" if calls else "format"
    if not free and "format" in body:
        rules.format(response)
    return rules.written(body)


class _Rules:
    """Collects the rules of one grammar."""

    def __init__(self, tokenizer: Tokenizer, thinks: bool, inside: bool) -> None:
        self._tokenizer = tokenizer
        self._thinks = thinks
        self._inside = inside
        self._rules: list[str] = []
        self._grammars: list[dict[str, Any]] = []

    def written(self, body: str) -> str:
        begin, end = self._tokenizer.special_id("[THINK]"), self._tokenizer.special_id("[/THINK]")
        thinks = self._thinks and begin is not None and end is not None
        lines = [f"start: {'think? ' if thinks else ''}( {body} )"]
        if self._inside:
            assert end is not None, "only a marker opens a thought in a prompt"
            lines = [f"start: TEXT? <[{end}]> ( {body} )"]
        elif thinks:
            lines.append(f"think: <[{begin}]> TEXT? <[{end}]>")
        lines += [*self._rules, r"TEXT: /(.|\n)+/", r"BLANK: /[ \n]{1,4}/"]
        text = json.dumps({"grammars": [{"lark_grammar": "\n".join(lines)}, *self._grammars]}, allow_nan=False)
        if len(text) > constraints.MAX_SCHEMA_BYTES:
            raise InvalidRequestError(
                f"The tools' schemas are {len(text)} bytes long together; at most {constraints.MAX_SCHEMA_BYTES} are "
                "taken.",
                param="tools",
            )
        return text

    def format(self, response: ResponseFormat) -> None:
        match response.kind, response.value:
            case "regex", str(pattern):
                self._rules.append(f"format: {constraints.regex_literal(pattern)}")
            case "grammar", str(grammar):
                self._refer("format", {"lark_grammar": constraints.checked_grammar(grammar)})
            case "json_schema", schema if schema is not None and not isinstance(schema, str):
                self._refer("format", {"json_schema": constraints.guided_schema(schema)})
            case _:
                self._refer("format", {"json_schema": constraints.guided_schema({"type": "object"})})

    def calls(self, functions: Sequence[Function], policy: ToolPolicy) -> None:
        marker = self._marker("[TOOL_CALLS]")
        if self._tokenizer.special_id("[ARGS]") is not None and self._named_form:
            forms = list(self._named(functions))
            run = f"( {marker} ( {' | '.join(forms)} ) )"
            self._rules.append(f"calls: {run}{'+' if policy.parallel else ''}")
            return
        forms = list(self._listed(functions))
        self._rules.append(f"call: {' | '.join(forms)}")
        more = ' ( "," BLANK? call )*' if policy.parallel else ""
        self._rules.append(f'calls: {marker} BLANK? "[" call{more} "]"')

    @property
    def _named_form(self) -> bool:
        """From version 11 on: name and arguments between markers."""
        version = self._tokenizer.version
        digits = version.removeprefix("v").partition("m")[0]
        return digits.isdecimal() and int(digits) >= 11

    def _named(self, functions: Sequence[Function]) -> Iterator[str]:
        args = self._marker("[ARGS]")
        # Version 11 alone has an id in the prompt.
        with_id = self._tokenizer.version.startswith("v11") and self._tokenizer.special_id("[CALL_ID]") is not None
        call_id = f"{self._marker('[CALL_ID]')} {_CALL_ID} " if with_id else ""
        for index, function in enumerate(functions):
            self._refer(f"args_{index}", self._arguments(index, function))
            yield f'( "{function.name}" {call_id}{args} BLANK? args_{index} )'

    def _listed(self, functions: Sequence[Function]) -> Iterator[str]:
        with_id = self._tokenizer.version not in ("v1", "v2")
        call_id = rf'", \"id\": \"" {_CALL_ID} "\"}}"' if with_id else '"}"'
        for index, function in enumerate(functions):
            self._refer(f"args_{index}", self._arguments(index, function))
            yield rf'( "{{\"name\": \"{function.name}\", \"arguments\": " args_{index} {call_id} )'

    def _arguments(self, index: int, function: Function) -> dict[str, Any]:
        try:
            schema = constraints.guided_schema({"type": "object", **function.parameters}, lenient=not function.strict)
        except InvalidRequestError as error:
            error.param = f"tools[{index}].function.parameters"
            raise
        return {"json_schema": schema}

    def _refer(self, rule: str, grammar: dict[str, Any]) -> None:
        self._rules.append(f"{rule}: @{rule}")
        self._grammars.append({"name": rule, **grammar})

    def _marker(self, name: str) -> str:
        token_id = self._tokenizer.special_id(name)
        assert token_id is not None, f"a template with tools has {name}"
        return f"<[{token_id}]>"
