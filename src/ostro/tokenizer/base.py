"""What every tokenizer can do, whatever file it came from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ostro.core.errors import InvalidRequestError
from ostro.core.media import MediaInput, Prompt
from ostro.tokenizer.placeholders import MARKS, laid_out
from ostro.tokenizer.turns import indefinite

PLACEHOLDERS = {"image": "[IMG]", "audio": "[AUDIO]", "series": "[SERIES]"}


class Tokenizer(ABC):
    """Text to token ids and back. Safe to use from several threads.

    vocab_size: ids are 0 .. vocab_size - 1. A model may have more rows than that; such ids are no text.
    bos_id: the token that begins a sequence; None where the family has none.
    eos_ids: tokens that end an answer.
    version: the file's own version ("v1" .. "v15"), or "hf" for a `tokenizer.json`.
    """

    vocab_size: int
    bos_id: int | None
    eos_ids: tuple[int, ...]
    version: str

    def __init__(self) -> None:
        self._bytes: dict[int, bytes] = {}

    @abstractmethod
    def is_special(self, token_id: int) -> bool:
        """Whether the id is a control token: never made from text, and no text itself."""

    @abstractmethod
    def render(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        continue_final: bool = False,
        reasoning_effort: str | None = None,
    ) -> Prompt:
        """A conversation in the model's own template, up to where the answer begins.

        messages: as OpenAI has them: role system, developer, user, assistant or tool; content a string or text
            parts, of an assistant also what it thought (`reasoning_content`, or Mistral's `thinking` parts), of a user
            also media that have been read: `{"type": "media", "media": MediaInput}`.
        tools: functions as OpenAI has them. continue_final: the last message is the assistant's and is to be
            continued, not answered. reasoning_effort: only where `supports_reasoning_effort`.
        Raises InvalidRequestError, with `param` naming the field, that says what the template cannot express.
        """

    def encode_chat(self, messages: list[dict[str, Any]], **options: Any) -> list[int]:
        """`render` for a conversation of text: its token ids."""
        prompt = self.render(messages, **options)
        if prompt.spans:
            raise InvalidRequestError("The messages hold media, which are more than token ids.", param="messages")
        return prompt.token_ids

    def render_transcription(self, media: MediaInput, language: str | None = None) -> Prompt:  # noqa: ARG002 - for tokenizers that can
        """A prompt that asks for what is said in a sound. language: of the speech, ISO 639-1; None leaves it open.

        Raises InvalidRequestError where the template cannot ask for that.
        """
        raise InvalidRequestError(
            f"This model's tokenizer ({self.version}) has no way to ask for a transcription. Serve a model that hears.",
            param="model",
            code="unsupported_parameter",
        )

    def encode_fim(self, prompt: str, suffix: str) -> list[int]:  # noqa: ARG002 - for tokenizers that can
        """Token ids that ask for what is between two texts. Raises InvalidRequestError where there is no way to."""
        raise InvalidRequestError(
            f"This model's tokenizer ({self.version}) has no tokens for filling in between a prompt and a suffix.",
            param="suffix",
            code="unsupported_parameter",
        )

    def special_id(self, name: str) -> int | None:  # noqa: ARG002 - for tokenizers that can
        """The id of the control token of that name, such as "[TOOL_CALLS]"; None where the vocabulary has none."""
        return None

    @property
    def can_chat(self) -> bool:
        """Whether there is a template for conversations."""
        return True

    @property
    def can_call_tools(self) -> bool:
        """Whether the template has a place for tools and the vocabulary a marker for calls."""
        return self.special_id("[TOOL_CALLS]") is not None

    @property
    def can_fill_in_middle(self) -> bool:
        return self.special_id("[PREFIX]") is not None and self.special_id("[SUFFIX]") is not None

    @property
    def placeholders(self) -> dict[str, int]:
        """The tokens that stand for rows of media, of those modalities that the template has a place for."""
        found = {modality: self.special_id(name) for modality, name in PLACEHOLDERS.items()}
        return {modality: token for modality, token in found.items() if token is not None}

    @property
    def can_reason(self) -> bool:
        """Whether the vocabulary has markers around what a model thinks."""
        return self.special_id("[THINK]") is not None and self.special_id("[/THINK]") is not None

    def leaves_thinking(self, prompt: Sequence[int]) -> bool:
        """Whether a prompt ends within a thought, which the answer goes on with."""
        begin, end = self.special_id("[THINK]"), self.special_id("[/THINK]")
        return next((token == begin for token in reversed(prompt) if token in (begin, end)), False)

    @property
    def supports_reasoning_effort(self) -> bool:
        """Whether the template can say how hard to think."""
        return False

    @abstractmethod
    def _encode_text(self, text: str) -> list[int]:
        """Ids of text that holds no lone surrogate; never a control token."""

    @abstractmethod
    def _look_up_bytes(self, token_id: int) -> bytes:
        """`token_bytes` of an id within the vocabulary, without a cache."""

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        """Ids of plain text. What looks like a control token in it stays text."""
        ids = self._encode_text(replace_surrogates(text))
        return [self.bos_id, *ids] if bos and self.bos_id is not None else ids

    def encode_media(self, media: MediaInput) -> Prompt:
        """One input by itself, outside of any template: its places behind the token that begins a sequence.

        Raises InvalidRequestError where the vocabulary has no places for it.
        """
        if media.modality not in self.placeholders:
            raise InvalidRequestError(
                f"This model's tokenizer ({self.version}) has no place for {indefinite(media.modality)}.",
                code="unsupported_content",
            )
        marks = {name: token for name in MARKS if (token := self.special_id(name)) is not None}
        begin = [] if self.bos_id is None else [self.bos_id]
        return Prompt.placing(begin + laid_out(media, marks), [media], self.placeholders)

    def decode(self, ids: Iterable[int], *, skip_special: bool = True, continuation: bool = False) -> str:
        """Text of `ids`; bytes that are not UTF-8 become U+FFFD.

        skip_special: leave control tokens out; otherwise their names are in the text.
        continuation: the ids go on from other text, so a SentencePiece space at their beginning is a real one.
        """
        parts: list[bytes] = []
        begun = continuation
        for token_id in ids:
            if self.is_special(token_id):
                if not skip_special:
                    parts.append(self.token_bytes(token_id))
                continue
            piece = self.token_bytes(token_id) if begun else self.leading_bytes(token_id)
            begun = begun or self.contributes(token_id)
            parts.append(piece)
        return b"".join(parts).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that the token adds to a text; a control token's name. Empty for an id beyond the vocabulary."""
        known = self._bytes.get(token_id)
        if known is None:
            if not 0 <= token_id < self.vocab_size:
                return b""  # not kept: clients may name any number
            known = self._bytes[token_id] = self._look_up_bytes(token_id)
        return known

    def leading_bytes(self, token_id: int) -> bytes:
        """`token_bytes` where the token begins a text: SentencePiece puts a space there that was not written."""
        return self.token_bytes(token_id)

    def contributes(self, token_id: int) -> bool:
        """Whether the token is part of a text at all, so that what follows no longer begins it."""
        return not self.is_special(token_id) and bool(self.token_bytes(token_id))


def replace_surrogates(text: str) -> str:
    """`text` as UTF-8 can carry it: pairs of surrogates joined, lone ones as U+FFFD. JSON's \\ud800 brings them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
