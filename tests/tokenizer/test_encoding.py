"""Text to ids and back."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from tokenizer_files import DATA, FILES, NEWER, SENTENCEPIECE, shipped, small_tekken

from ostro.tokenizer import Tokenizer

TEXTS = [
    "",
    " ",
    "hello",
    " hello",
    "  two spaces",
    "\nnew line\t\ttab",
    "Łódź, naïve café",
    "你好，世界。",
    "😀👩‍👩‍👧‍👦🇫🇷",
    "\x00\x01\x7f",
    "مرحبا بالعالم",
    "def f(x):\n    return x ** 2\n",
]
CONTROL_LOOKALIKES = "<s> </s> [INST] [/INST] [SYSTEM_PROMPT] [TOOL_CALLS] [IMG] <unk> [control_8] <SPECIAL_30>"


@functools.cache
def _reference(source: str) -> MistralTokenizer:
    return MistralTokenizer.from_file(DATA / source)


def _all() -> list[Tokenizer]:
    return [shipped(source) for source in FILES] + [small_tekken(version) for version in NEWER]


@pytest.mark.parametrize("source", FILES)
@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_the_reference_ones_and_give_the_text_back(source: str, text: str) -> None:
    tokenizer = shipped(source)
    reference = _reference(source)
    ids = tokenizer.encode(text)
    assert ids[0] == tokenizer.bos_id
    assert ids[1:] == tokenizer.encode(text, bos=False)
    assert tokenizer.decode(ids) == text
    assert ids == reference.instruct_tokenizer.tokenizer.encode(text, bos=True, eos=False)
    assert tokenizer.decode(ids) == reference.decode(ids)


@settings(max_examples=40)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=40))
def test_any_text_comes_back(text: str) -> None:
    for tokenizer in _all():
        assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=60)
@given(data=st.data())
def test_ids_without_partial_characters_decode_as_the_reference_does(data: st.DataObject) -> None:
    source = data.draw(st.sampled_from(SENTENCEPIECE))
    tokenizer = shipped(source)
    reference = _reference(source)
    whole = st.integers(0, tokenizer.vocab_size - 1).filter(
        lambda token: tokenizer.is_special(token) or len(tokenizer.token_bytes(token)) > 1
    )
    ids = data.draw(st.lists(whole, max_size=20))
    assert tokenizer.decode(ids) == reference.decode(ids)


@pytest.mark.parametrize("text", [CONTROL_LOOKALIKES, *CONTROL_LOOKALIKES.split()])
def test_text_that_looks_like_control_tokens_stays_text(text: str) -> None:
    for tokenizer in _all():
        ids = tokenizer.encode(text, bos=False)
        assert not any(tokenizer.is_special(token) for token in ids)
        assert tokenizer.decode(ids) == text


def test_lone_surrogates_become_replacement_characters() -> None:
    for tokenizer in _all():
        assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"
        assert tokenizer.decode(tokenizer.encode("\ud83d\ude00")) == "😀"


def test_special_tokens_are_skipped_or_named() -> None:
    for tokenizer in _all():
        ids = [1, *tokenizer.encode("hello", bos=False), 2]
        assert tokenizer.decode(ids) == "hello"
        assert tokenizer.decode(ids, skip_special=False) == "<s>hello</s>"


def test_ids_beyond_the_vocabulary_are_no_text() -> None:
    for tokenizer in _all():
        assert tokenizer.token_bytes(tokenizer.vocab_size) == b""
        assert tokenizer.token_bytes(-1) == b""
        assert not tokenizer.is_special(tokenizer.vocab_size)
        assert tokenizer.decode([tokenizer.vocab_size, *tokenizer.encode("ok"), -1]) == "ok"


@pytest.mark.parametrize("source", SENTENCEPIECE)
def test_token_bytes_of_sentencepiece_are_exact(source: str) -> None:
    tokenizer = shipped(source)
    reference = _reference(source).instruct_tokenizer.tokenizer
    byte_ids = {reference.id_to_piece(token): token for token in range(tokenizer.vocab_size)}
    for byte in range(256):
        assert tokenizer.token_bytes(byte_ids[f"<0x{byte:02X}>"]) == bytes([byte])
    [hello] = tokenizer.encode("the", bos=False)
    assert tokenizer.token_bytes(hello) == b" the"
    assert tokenizer.leading_bytes(hello) == b"the"
    assert tokenizer.leading_bytes(byte_ids["<0x20>"]) == b" "
    assert tokenizer.decode([hello], continuation=True) == " the"
    assert tokenizer.decode([1, hello, 2, hello]) == "the the"


@pytest.mark.parametrize("source", [name for name in FILES if name not in SENTENCEPIECE])
def test_token_bytes_of_tekken_join_to_the_text(source: str) -> None:
    tokenizer = shipped(source)
    text = "naïve 😀 你好"
    ids = tokenizer.encode(text, bos=False)
    assert b"".join(tokenizer.token_bytes(token) for token in ids) == text.encode()
    first = 1000  # the specials come first, then the 256 bytes
    assert [tokenizer.token_bytes(first + byte) for byte in range(256)] == [bytes([byte]) for byte in range(256)]
