"""The vocabulary of a GGUF file as a `tokenizer.json`.

Two of llama.cpp's models of tokenizers are read (llama-vocab.cpp). "gpt2" is byte-level BPE with its merges listed;
a name says how text is cut first. "llama" is SentencePiece's BPE: no merges but a score for each piece, and of two
neighbours those are joined first whose piece has the highest score. That gives the same as a list of all pairs that
make a piece, in the order of the pieces' scores.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ostro.core.errors import ConfigError, TokenizerError
from ostro.core.gguf import Value

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
KINDS = range(NORMAL, BYTE + 1)

# How text is cut before merging: the pattern of every tekken.json. None: the one that is built into ByteLevel.
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS: dict[str, str | None] = {"tekken": _TEKKEN, "gpt-2": None}

# In characters. Pieces are short (tekken's longest has 150), and few pairs make one (SentencePiece models of the
# family have 60,000 pairs of half a million characters): more is an attempt to use up time and memory.
MAX_PIECE = 512
MAX_VOCABULARY = 4_000_000
MAX_MERGED = 20_000_000

_SPACE = "▁"  # U+2581


@dataclass(frozen=True)
class GGUFVocabulary:
    """tokenizer_json: a file of the tokenizers library. tokenizer_config: what is usually in the file beside it.

    Its keys are bos_token, eos_token and chat_template (a text, or None where there is none) and add_bos_token.
    """

    tokenizer_json: str
    tokenizer_config: dict[str, Any]


@dataclass(frozen=True)
class _Tokens:
    """kinds: llama.cpp's token type of each text. ids: where each text is."""

    texts: tuple[str, ...]
    kinds: tuple[int, ...]
    ids: dict[str, int]

    def mergeable(self, text: str) -> bool:
        """Whether the text is a piece of ordinary text; a control token must never come out of that."""
        at = self.ids.get(text)
        return at is not None and self.kinds[at] in (NORMAL, USER_DEFINED)


def gguf_vocabulary(metadata: Mapping[str, Value]) -> GGUFVocabulary:
    """The tokenizer that a file's metadata describes.

    Raises ConfigError for a tokenizer or a pre-tokenizer that is not known, TokenizerError for a vocabulary that
    contradicts itself.
    """
    model = metadata.get("tokenizer.ggml.model")
    if model == "gpt2":
        pre = metadata.get("tokenizer.ggml.pre")
        if not isinstance(pre, str) or pre not in PATTERNS:
            raise _unknown("pre-tokenizer", "tokenizer.ggml.pre", pre, tuple(PATTERNS))
        tokens = _read_tokens(metadata)
        parts = _byte_level(metadata, tokens, pre)
        bos = pre == "tekken"
    elif model == "llama":
        tokens = _read_tokens(metadata)
        parts = _sentencepiece(metadata, tokens)
        bos = True
    else:
        raise _unknown("tokenizer", "tokenizer.ggml.model", model, ("gpt2", "llama"))
    file = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": _added(tokens), **parts}
    return GGUFVocabulary(json.dumps(file, ensure_ascii=False), _config(metadata, tokens, bos))


def _unknown(what: str, key: str, value: Value | None, known: tuple[str, ...]) -> ConfigError:
    shown = repr(value[:64]) if isinstance(value, str) else "no name"
    return ConfigError(
        f"The GGUF file's {what} ({key}) is {shown}, which is not supported; {' and '.join(known)} are. Put the "
        "checkpoint's tekken.json or tokenizer.model beside the file.",
        param=key,
    )


def _broken(key: str, why: str) -> TokenizerError:
    return TokenizerError(f"The GGUF file's vocabulary cannot be used: {key} {why}. Download or convert it again.")


def _list_of(metadata: Mapping[str, Value], key: str, *types: type, length: int | None = None) -> tuple[Any, ...]:
    values = metadata.get(key)
    if not isinstance(values, tuple) or not values or not {type(value) for value in values} <= set(types):
        raise _broken(key, f"is not a list of {' or '.join(kind.__name__ for kind in types)}")
    if length is not None and len(values) != length:
        raise _broken(key, f"has {len(values)} entries for {length} tokens")
    return values


def _read_tokens(metadata: Mapping[str, Value]) -> _Tokens:
    texts = _list_of(metadata, "tokenizer.ggml.tokens", str)
    kinds = _list_of(metadata, "tokenizer.ggml.token_type", int, length=len(texts))
    if not set(kinds) <= set(KINDS):
        raise _broken("tokenizer.ggml.token_type", f"holds types other than {KINDS[0]} to {KINDS[-1]}")
    if max(map(len, texts)) > MAX_PIECE or sum(map(len, texts)) > MAX_VOCABULARY:
        raise _broken("tokenizer.ggml.tokens", f"has tokens of more than {MAX_PIECE} characters, or too many")
    ids = {text: at for at, text in enumerate(texts)}
    if len(ids) != len(texts):
        twice = next(text for at, text in enumerate(texts) if ids[text] != at)
        raise _broken("tokenizer.ggml.tokens", f"holds {twice!r} twice")
    return _Tokens(texts, kinds, ids)


def _added(tokens: _Tokens) -> list[dict[str, Any]]:
    """Tokens that are never cut: control tokens, and those that are found in a text before anything else."""
    return [
        {
            "id": at,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind != USER_DEFINED,
        }
        for at, (text, kind) in enumerate(zip(tokens.texts, tokens.kinds, strict=True))
        if kind in (UNKNOWN, CONTROL, USER_DEFINED)
    ]


def _byte_level(metadata: Mapping[str, Value], tokens: _Tokens, pre: str) -> dict[str, Any]:
    from tokenizers.pre_tokenizers import ByteLevel

    if any(not tokens.mergeable(letter) for letter in ByteLevel.alphabet()):
        raise _broken("tokenizer.ggml.tokens", "lacks some of the 256 bytes")
    merges = _listed_merges(metadata, tokens)
    pattern = PATTERNS[pre]
    step = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": pattern is None}
    if pattern is not None:
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        step = {"type": "Sequence", "pretokenizers": [split, step]}
    # As tiktoken, which tekken is made for, takes a whole word that is a token without merging.
    model = _bpe(tokens, merges, ignore_merges=pre == "tekken")
    return {
        "normalizer": None,
        "pre_tokenizer": step,
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": model,
    }


def _listed_merges(metadata: Mapping[str, Value], tokens: _Tokens) -> list[tuple[str, str]]:
    key = "tokenizer.ggml.merges"
    merges: list[tuple[str, str]] = []
    for line in _list_of(metadata, key, str):
        left, _, right = line.partition(" ")
        if not (tokens.mergeable(left) and tokens.mergeable(right) and tokens.mergeable(left + right)):
            raise _broken(key, f"holds {line[:64]!r}, which does not join two tokens to a third")
        merges.append((left, right))
    return merges


def _sentencepiece(metadata: Mapping[str, Value], tokens: _Tokens) -> dict[str, Any]:
    unknown = next((text for text, kind in zip(tokens.texts, tokens.kinds, strict=True) if kind == UNKNOWN), None)
    if unknown is None and any(f"<0x{byte:02X}>" not in tokens.ids for byte in range(256)):
        raise _broken("tokenizer.ggml.tokens", "has no unknown token and lacks some of the 256 bytes")
    # A space before the text, which SentencePiece puts there, and again after a token that was found before the rest:
    # llama.cpp does so too.
    prefixed = metadata.get("tokenizer.ggml.add_space_prefix", True) is not False
    normalizer: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}]
    decoder: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefixed:
        normalizer.insert(0, {"type": "Prepend", "prepend": _SPACE})
        decoder.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "normalizer": {"type": "Sequence", "normalizers": normalizer},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": decoder},
        "model": _bpe(tokens, _scored_merges(metadata, tokens), unknown=unknown, bytes_fall_back=True),
    }


def _scored_merges(metadata: Mapping[str, Value], tokens: _Tokens) -> list[tuple[str, str]]:
    """All pairs of pieces that make a piece, the best piece first."""
    key = "tokenizer.ggml.scores"
    scores = _list_of(metadata, key, float, int, length=len(tokens.texts))
    if not all(map(math.isfinite, scores)):
        raise _broken(key, "holds scores that are not finite")
    # What is found in a text beforehand takes no part in merging.
    pieces = {text: at for text, at in tokens.ids.items() if tokens.kinds[at] == NORMAL}
    merges: list[tuple[str, str]] = []
    characters = 0
    # Equal scores, which some converters write, leave the order of ids: that of the vocabulary the pieces came from.
    for piece in sorted(pieces, key=lambda text: -scores[pieces[text]]):
        pairs = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
        found = [pair for pair in pairs if pair[0] in pieces and pair[1] in pieces]
        merges += found
        characters += len(found) * len(piece)
        if characters > MAX_MERGED:
            raise _broken("tokenizer.ggml.tokens", "can be made of each other in too many ways")
    return merges


def _bpe(
    tokens: _Tokens,
    merges: list[tuple[str, str]],
    *,
    unknown: str | None = None,
    bytes_fall_back: bool = False,
    ignore_merges: bool = False,
) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": bytes_fall_back,
        "byte_fallback": bytes_fall_back,
        "ignore_merges": ignore_merges,
        "vocab": tokens.ids,
        "merges": merges,
    }


def _config(metadata: Mapping[str, Value], tokens: _Tokens, adds_bos: bool) -> dict[str, Any]:
    adds = metadata.get("tokenizer.ggml.add_bos_token", adds_bos)
    template = metadata.get("tokenizer.chat_template")
    if not isinstance(adds, bool) or not isinstance(template, str | None):
        raise _broken("tokenizer.ggml.add_bos_token or tokenizer.chat_template", "is not a truth value or a text")
    return {
        "bos_token": _text_of(metadata, tokens, "tokenizer.ggml.bos_token_id"),
        "eos_token": _text_of(metadata, tokens, "tokenizer.ggml.eos_token_id"),
        "add_bos_token": adds,
        "chat_template": template,
    }


def _text_of(metadata: Mapping[str, Value], tokens: _Tokens, key: str) -> str | None:
    at = metadata.get(key)
    if at is None:
        return None
    if type(at) is not int or not 0 <= at < len(tokens.texts):
        raise _broken(key, f"is none of the {len(tokens.texts)} tokens")
    return tokens.texts[at]
