"""Chat templates in Jinja, as `tokenizer_config.json`, `chat_template.jinja` and GGUF files hold them.

A template is code that came with a model: it runs in Jinja's sandbox, sees messages and names of tokens, nothing else.
What users wrote never becomes a control token: before a template is rendered, a character that occurs nowhere else is
put into every control token that a message spells out, and taken out again once the template's own are found.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from ostro.core.errors import InvalidRequestError, TokenizerError
from ostro.core.media import MediaInput
from ostro.tokenizer.turns import Turn, refusal

MAX_TEMPLATE = 200_000
# Of the area for private use: characters that no text should hold, so that one of them is free.
_FREE = [chr(code) for code in range(0xE000, 0xE100)]


class ChatTemplate:
    """One template. specials: the texts of the control tokens. Raises TokenizerError where it cannot be compiled."""

    def __init__(self, source: str, specials: Sequence[str], *, bos: str, eos: str, origin: str) -> None:
        import jinja2
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        if len(source) > MAX_TEMPLATE:
            raise TokenizerError(
                f"{origin} has a chat template of {len(source)} characters; {MAX_TEMPLATE} are the most."
            )
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
        try:
            self._template = environment.from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise TokenizerError(
                f"The chat template of {origin} cannot be read: {error}. Put the model's tekken.json or "
                "tokenizer.model beside it, or repair the template."
            ) from error
        self._given = {"bos_token": bos, "eos_token": eos}
        longest_first = sorted(filter(None, specials), key=len, reverse=True)
        self._specials = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def encode(
        self, turns: Sequence[Turn], encode_text: Callable[[str], list[int]], id_of: Callable[[str], int]
    ) -> list[int]:
        """Token ids up to where the answer begins. Raises InvalidRequestError for what the template refuses."""
        free = _free_character(turns)
        messages = [_message(turn, lambda text: self._broken_up(text, free)) for turn in _merged(turns)]
        unfinished = turns[-1].unfinished
        end = free + free
        if unfinished:
            messages[-1]["content"] += end  # An assistant's, which is one text.
        text = self._render(messages, not unfinished)
        if unfinished:
            text, found, _ = text.partition(end)
            if not found:
                raise refusal(
                    "The model's chat template leaves out the assistant's message, so it cannot be continued."
                )
        ids: list[int] = []
        at = 0
        for match in self._specials.finditer(text):
            ids += self._plain(text[at : match.start()], free, encode_text)
            ids.append(id_of(match[0]))
            at = match.end()
        return ids + self._plain(text[at:], free, encode_text)

    def _render(self, messages: list[dict[str, Any]], add_generation_prompt: bool) -> str:
        try:
            return self._template.render(
                messages=messages,
                add_generation_prompt=add_generation_prompt,
                tools=None,
                documents=None,
                **self._given,
            )
        except _RefusedError as error:
            raise refusal(f"The model's chat template refuses this conversation: {error}") from error
        except Exception as error:  # whatever a template does wrong is the template's fault, and must not end more
            raise InvalidRequestError(
                f"The model's chat template failed ({type(error).__name__}: {error}). Send a plain prompt to "
                "/v1/completions, or put the model's tekken.json or tokenizer.model beside it.",
                param="messages",
            ) from error

    def _broken_up(self, text: str, free: str) -> str:
        return self._specials.sub(lambda match: match[0][:1] + free + match[0][1:], text)

    @staticmethod
    def _plain(text: str, free: str, encode_text: Callable[[str], list[int]]) -> list[int]:
        text = text.replace(free, "")
        return encode_text(text) if text else []


class _RefusedError(Exception):
    pass


def _raise(message: object) -> None:
    raise _RefusedError(str(message))


def _to_json(value: object, indent: int | None = None) -> str:
    """As templates expect it: Jinja's own escapes what HTML minds."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _free_character(turns: Sequence[Turn]) -> str:
    used = {char for turn in turns for text in turn.texts for char in text if "\ue000" <= char < "\ue100"}
    free = next((char for char in _FREE if char not in used), None)
    if free is None:
        raise refusal(
            "The messages hold all characters from U+E000 to U+E0FF, which this model's template cannot take."
        )
    return free


# Texts and images of a message, no two texts side by side.
_Parts = list[str | MediaInput]


def _merged(turns: Sequence[Turn]) -> list[tuple[str, _Parts]]:
    """(role, content): neighbours of one role are one message, since templates want roles to alternate."""
    merged: list[tuple[str, _Parts]] = []
    for turn in turns:
        if turn.calls or turn.role == "tool":
            raise refusal("This model's chat template is not known to take tool calls or their results.")
        parts: _Parts = []
        if merged and merged[-1][0] == turn.role:
            parts = [*merged.pop()[1], "\n\n"]
        parts += [part for part in turn.parts if isinstance(part, str | MediaInput)]
        merged.append((turn.role, _joined(parts)))
    return merged


def _joined(parts: _Parts) -> _Parts:
    joined: _Parts = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        else:
            joined.append(part)
    return joined or [""]


def _message(turn: tuple[str, _Parts], protect: Callable[[str], str]) -> dict[str, Any]:
    """Text alone is a string, which every template takes; with images it is a list of parts."""
    role, parts = turn
    if len(parts) == 1 and isinstance(parts[0], str):
        return {"role": role, "content": protect(parts[0])}
    return {"role": role, "content": [_part(part, protect) for part in parts]}


def _part(part: str | MediaInput, protect: Callable[[str], str]) -> dict[str, str]:
    """A text under both names that templates know it by: the first ones for Pixtral ask for its content."""
    if isinstance(part, str):
        text = protect(part)
        return {"type": "text", "text": text, "content": text}
    return {"type": part.modality}
