"""A `tokenizer.json` read by the `tokenizers` library, where a checkpoint has nothing better."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ostro.core.errors import InvalidRequestError, TokenizerError
from ostro.core.media import MediaInput, Prompt
from ostro.tokenizer.base import Tokenizer
from ostro.tokenizer.conversation import read_messages
from ostro.tokenizer.placeholders import IMAGE_MARKS, image_tokens, require_places
from ostro.tokenizer.templates import ChatTemplate
from ostro.tokenizer.turns import refusal

_SPACE = "▁"  # U+2581
_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
_KNOWN_DECODERS = {"ByteLevel", "ByteFallback", "Fuse", "Metaspace", "Replace", "Strip"}


class HuggingFaceTokenizer(Tokenizer):
    """Byte-level BPE, or BPE with ▁ for a space and byte fallback. It chats by a Jinja template that came with it."""

    version = "hf"

    def __init__(
        self,
        inner: Any,
        decoders: list[dict[str, Any]],
        bos: str | None,
        eos: str | None,
        template: str | None = None,
        origin: str = "the tokenizer",
        *,
        adds_bos: bool = False,
    ) -> None:
        """inner: a `tokenizers.Tokenizer`. decoders: its decoder steps as in the file. adds_bos: a prompt begins with
        bos where the template does not say so."""
        super().__init__()
        # Control tokens in a user's text are text: without this, "</s>" would end the sequence.
        inner.encode_special_tokens = True
        self._inner = inner
        self._special = frozenset(i for i, token in inner.get_added_tokens_decoder().items() if token.special)
        self._byte_level = any(step["type"] == "ByteLevel" for step in decoders)
        self._drops_space = any(_drops_leading_space(step) for step in decoders)
        self.vocab_size = max(inner.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self.bos_id = self._id_of(bos)
        eos_id = self._id_of(eos)
        self.eos_ids = () if eos_id is None else (eos_id,)
        self._adds_bos = adds_bos
        self._template: ChatTemplate | None = None
        if template is not None:
            specials = [self._piece(token) for token in sorted(self._special)]
            self._template = ChatTemplate(template, specials, bos=bos or "", eos=eos or "", origin=origin)

    @classmethod
    def load(cls, path: Path) -> HuggingFaceTokenizer:
        """`tokenizer_config.json` beside the file names its first and last token; else <s> and </s> are looked for.

        Raises TokenizerError that names the file.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise TokenizerError(f"{path} cannot be read: {error}. Download it again.") from error
        config = path.with_name("tokenizer_config.json")
        values = _read_config(config)
        return cls.of(
            str(path),
            text,
            _special_name(values.get("bos_token")),
            _special_name(values.get("eos_token")),
            _template_of(path.parent, values),
            adds_bos=values.get("add_bos_token") is True,
        )

    @classmethod
    def of(
        cls,
        origin: str,
        text: str,
        bos: str | None,
        eos: str | None,
        template: str | None = None,
        *,
        adds_bos: bool = False,
    ) -> HuggingFaceTokenizer:
        """From the text of a `tokenizer.json`. origin: what errors call it. template: of chats, in Jinja."""
        from tokenizers import Tokenizer as Inner

        try:
            inner = Inner.from_str(text)
        except Exception as error:  # the library raises bare Exception
            raise TokenizerError(
                f"{origin} is not a tokenizer that the tokenizers library can read: {error}. "
                "Download it again from the checkpoint's repository."
            ) from error
        decoders = list(_decoder_steps(json.loads(text).get("decoder")))
        unknown = sorted({step["type"] for step in decoders} - _KNOWN_DECODERS)
        if unknown or not decoders:
            raise TokenizerError(
                f"{origin} has the decoder {', '.join(unknown) or 'none'}, whose tokens cannot be turned into bytes "
                "one by one; byte-level and SentencePiece-like decoders can. Put the checkpoint's tekken.json or "
                "tokenizer.model beside it."
            )
        return cls(inner, decoders, bos or "<s>", eos or "</s>", template, origin, adds_bos=adds_bos)

    @property
    def can_chat(self) -> bool:
        return self._template is not None

    def is_special(self, token_id: int) -> bool:
        return token_id in self._special

    @property
    def placeholders(self) -> dict[str, int]:
        """Images only: how templates without a tokenizer of Mistral's write sounds is not known."""
        found = super().placeholders.get("image")
        whole = all(self.special_id(name) is not None for name in IMAGE_MARKS)
        return {"image": found} if found is not None and whole else {}

    def special_id(self, name: str) -> int | None:
        """Image marks only: the others belong to templates that this one does not know."""
        found = self._id_of(name) if name in IMAGE_MARKS else None
        return found if found is not None and self.is_special(found) else None

    def render(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        continue_final: bool = False,
        reasoning_effort: str | None = None,
    ) -> Prompt:
        """By the template that came with the file. Tools and reasoning effort are refused: how a model that brings no
        tokenizer of Mistral's writes calls is not known."""
        if self._template is None:
            raise InvalidRequestError(
                "This model came with no chat template, so it cannot chat. Put its tekken.json or "
                "tokenizer.model into the folder, or send a plain prompt to /v1/completions.",
                param="messages",
            )
        for given, param in ((tools, "tools"), (reasoning_effort, "reasoning_effort")):
            if given:
                raise InvalidRequestError(
                    f"This model chats by a plain template, which {param} have no known place in. Put its tekken.json "
                    "or tokenizer.model beside it, or leave them out.",
                    param=param,
                    code="unsupported_parameter",
                )
        turns = read_messages(messages, continue_final=continue_final)
        require_places(turns, self.placeholders, self.version)
        ids = self._template.encode(turns, self._encode_text, self._inner.token_to_id)
        if self._adds_bos and self.bos_id is not None and ids[:1] != [self.bos_id]:
            ids.insert(0, self.bos_id)
        media = [one for turn in turns for one in turn.media]
        return Prompt.placing(self._laid_out(ids, media), media, self.placeholders) if media else Prompt(ids)

    def _laid_out(self, ids: list[int], images: Sequence[MediaInput]) -> list[int]:
        """Each image's mark, which is all that a template writes, as rows of places."""
        marks = {name: found for name in IMAGE_MARKS if (found := self.special_id(name)) is not None}
        written = ids.count(marks["[IMG]"])
        if written != len(images):
            raise refusal(
                f"The model's chat template has {written} places for {len(images)} images. Put its tekken.json beside "
                "it, whose template has one for each."
            )
        queue = list(images)[::-1]
        out: list[int] = []
        for token in ids:
            out += image_tokens(queue.pop().grid, marks) if token == marks["[IMG]"] else [token]
        return out

    def leading_bytes(self, token_id: int) -> bytes:
        piece = self.token_bytes(token_id)
        drops = self._drops_space and piece[:1] == b" "
        return piece[1:] if drops and not _BYTE_PIECE.fullmatch(self._piece(token_id)) else piece

    def _encode_text(self, text: str) -> list[int]:
        return list(self._inner.encode(text, add_special_tokens=False).ids)

    def _look_up_bytes(self, token_id: int) -> bytes:
        piece = self._piece(token_id)
        if self.is_special(token_id):
            return piece.encode()
        if self._byte_level:
            return _bytes_of_byte_level(piece)
        if byte := _BYTE_PIECE.fullmatch(piece):
            return bytes.fromhex(byte[1])
        return piece.replace(_SPACE, " ").encode()

    def _piece(self, token_id: int) -> str:
        return self._inner.id_to_token(token_id) or ""

    def _id_of(self, name: str | None) -> int | None:
        return None if name is None else self._inner.token_to_id(name)


def _decoder_steps(decoder: Any) -> Iterator[dict[str, Any]]:
    if decoder is None:
        return
    if decoder["type"] == "Sequence":
        for step in decoder["decoders"]:
            yield from _decoder_steps(step)
    else:
        yield decoder


def _drops_leading_space(step: dict[str, Any]) -> bool:
    if step["type"] == "Metaspace":
        return str(step.get("prepend_scheme", "always")) != "never"
    return step["type"] == "Strip" and step.get("content") == " " and int(step.get("start", 0)) > 0


def _read_config(path: Path) -> Mapping[str, Any]:
    """`tokenizer_config.json`; nothing where there is none."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} is not JSON: {error}. Download it again.") from error
    if not isinstance(values, dict):
        raise TokenizerError(f"{path} is not a JSON object. Download it again.")
    return values


def _special_name(value: object) -> str | None:
    """A token's text: a string, or an object with `content`."""
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else None


def _template_of(folder: Path, config: Mapping[str, Any]) -> str | None:
    """`chat_template.jinja`, or what the config holds: a text, or a list of named ones."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise TokenizerError(f"{file} cannot be read: {error}. Download it again.") from error
    found = config.get("chat_template")
    if isinstance(found, list):
        named = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else None


def _byte_of_char() -> dict[str, int]:
    """GPT-2's table: printable Latin-1 stands for itself, the other bytes for the code points from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF_CHAR = _byte_of_char()


def _bytes_of_byte_level(piece: str) -> bytes:
    """An added token may hold characters outside the table; it is then its own text."""
    if all(char in _BYTE_OF_CHAR for char in piece):
        return bytes(_BYTE_OF_CHAR[char] for char in piece)
    return piece.encode()
