"""The vocabulary in a GGUF file encodes as the tokenizer that it was converted from."""

from __future__ import annotations

import contextlib
import functools
import json
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf.vocab import MistralVocab
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, pre_tokenizers, trainers

from ostro.core.errors import ConfigError, OstroError, TokenizerError
from ostro.core.paths import embedded_models
from ostro.tokenizer import Tokenizer, gguf_vocabulary, load_tokenizer
from ostro.tokenizer.huggingface import HuggingFaceTokenizer
from tokenizer.tokenizer_files import put

SPM = "mistral_instruct_tokenizer_240323.model.v3"
NANO = "ostro-nano"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
TEXTS = [
    "",
    "Hello, world!",
    " a leading space",
    "   three,  two   spaces ",
    "naïve café 😀 你好 Straße ΑΒΓ",
    "line\n\n\tindented\r\n",
    "1234567 3.14 don't I'LL",
    "<s>[INST] text that looks like control tokens [/INST]</s><unk>",
    "def f(x):\n    return x // 2  # half",
    "\x00\x01\u200b\ufeff<0x41>▁▁",
    "aaaaaaaaaaaaaaaaaaaa" * 10,
]
LETTERS = st.sampled_from("abcdefgh IJK.,'/[]<>0123\n\t▁éß你😀\x00")


@functools.cache
def original(source: str) -> tuple[Tokenizer, dict[str, Any]]:
    """A tokenizer, and the metadata that llama.cpp's converter writes for it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if source == NANO:
            shutil.copy(embedded_models()[NANO] / "tekken.json", folder)
        else:
            put(source, folder)
        tokenizer = load_tokenizer(folder)
        if source != NANO:
            (folder / source).rename(folder / "tokenizer.model.v3")  # The only name that the converter knows.
        vocabulary = MistralVocab(folder)
    texts, scores, kinds = zip(*vocabulary.all_tokens(), strict=True)
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": vocabulary.gguf_tokenizer_model,
        "tokenizer.ggml.tokens": tuple(text.decode() for text in texts),
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": tuple(map(int, kinds)),
        "tokenizer.ggml.bos_token_id": vocabulary.bos_id,
        "tokenizer.ggml.eos_token_id": vocabulary.eos_id,
        "tokenizer.ggml.add_bos_token": True,
    }
    if vocabulary.gguf_tokenizer_model == "gpt2":
        metadata["tokenizer.ggml.pre"] = "tekken"
        metadata["tokenizer.ggml.merges"] = tuple(vocabulary.extract_vocab_merges_from_model())
    assert tokenizer is not None
    return tokenizer, metadata


def load(metadata: dict[str, Any]) -> HuggingFaceTokenizer:
    made = gguf_vocabulary.gguf_vocabulary(metadata)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tokenizer.json").write_text(made.tokenizer_json, encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps(made.tokenizer_config), encoding="utf-8")
        return HuggingFaceTokenizer.load(folder / "tokenizer.json")


@functools.cache
def from_gguf(source: str) -> HuggingFaceTokenizer:
    return load(original(source)[1])


def same(source: str, text: str) -> None:
    expected, found = original(source)[0], from_gguf(source)
    ids = expected.encode(text)
    assert found.encode(text) == ids
    assert found.decode(ids) == expected.decode(ids) == text


@pytest.mark.parametrize("source", [SPM, NANO])
@pytest.mark.parametrize("text", TEXTS)
def test_texts_encode_alike(source: str, text: str) -> None:
    if "<0x41>" in text and source == SPM:
        assert from_gguf(source).encode(text) == original(source)[0].encode(text)  # Its ▁ is decoded as a space.
    else:
        same(source, text)


@pytest.mark.parametrize("source", [SPM, NANO])
@settings(deadline=None, max_examples=300)
@given(text=st.text(LETTERS, max_size=60) | st.text(max_size=30))
def test_any_text_encodes_alike(source: str, text: str) -> None:
    expected, found = original(source)[0], from_gguf(source)
    ids = expected.encode(text)
    assert found.encode(text) == ids
    assert found.decode(ids) == expected.decode(ids)


@pytest.mark.parametrize("source", [SPM, NANO])
def test_the_vocabulary_is_the_same(source: str) -> None:
    expected, found = original(source)[0], from_gguf(source)
    assert found.vocab_size == expected.vocab_size
    assert (found.bos_id, found.eos_ids) == (expected.bos_id, expected.eos_ids)
    # The unknown token comes first, and is no control token for SentencePiece.
    for token in range(1, expected.vocab_size):
        assert found.is_special(token) == expected.is_special(token)
        if not expected.is_special(token):
            assert found.token_bytes(token) == expected.token_bytes(token)


@functools.cache
def gpt2() -> tuple[Inner, dict[str, Any]]:
    """A byte-level BPE trained here, whose merges do not follow from its ids, and its metadata."""
    inner = Inner(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(["the cat isn't on the mat", "we're there 123 naïve"] * 5, trainer)
    model = json.loads(inner.to_str())["model"]
    texts = sorted(model["vocab"], key=lambda text: int(model["vocab"][text]))
    return inner, {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tuple(texts),
        "tokenizer.ggml.token_type": (CONTROL, *[NORMAL] * (len(texts) - 1)),
        "tokenizer.ggml.merges": tuple(" ".join(pair) for pair in model["merges"]),
        "tokenizer.ggml.eos_token_id": 0,
    }


@settings(deadline=None)
@given(st.text(st.sampled_from("the catisnomwr'123ï 😀\n"), max_size=40))
def test_gpt2_cuts_its_own_way(text: str) -> None:
    inner, metadata = gpt2()
    assert load(metadata).encode(text, bos=False) == inner.encode(text, add_special_tokens=False).ids


def shuffled(metadata: dict[str, Any]) -> dict[str, Any]:
    """The same vocabulary with other ids."""
    order = list(range(len(metadata["tokenizer.ggml.tokens"])))
    random.Random(0).shuffle(order)
    lists = ("tokens", "scores", "token_type")
    changed = {key: tuple(metadata[key][at] for at in order) for key in (f"tokenizer.ggml.{name}" for name in lists)}
    ends = {key: order.index(metadata[key]) for key in metadata if key.endswith(("bos_token_id", "eos_token_id"))}
    return metadata | changed | ends


def test_scores_decide_and_not_ids() -> None:
    tokenizer, metadata = original(SPM)
    other = load(shuffled(metadata))
    for text in TEXTS:
        expected = [tokenizer.token_bytes(token) for token in tokenizer.encode(text)]
        assert [other.token_bytes(token) for token in other.encode(text)] == expected


def test_a_whole_word_needs_no_merges() -> None:
    """As tiktoken: llama.cpp's `ignore_merges`, which it sets for tekken."""
    tokenizer, metadata = original(NANO)
    ids = tokenizer.encode(" you", bos=False)
    assert len(ids) == 1
    merges = tuple(line for line in metadata["tokenizer.ggml.merges"] if line.replace(" ", "") != "Ġyou")
    assert len(merges) < len(metadata["tokenizer.ggml.merges"])
    assert load(metadata | {"tokenizer.ggml.merges": merges}).encode(" you", bos=False) == ids


def test_without_a_space_before_the_text() -> None:
    tokenizer = load(original(SPM)[1] | {"tokenizer.ggml.add_space_prefix": False})
    ids = tokenizer.encode("Hello you", bos=False)
    assert [tokenizer.token_bytes(token) for token in ids] == [b"Hello", b" you"]
    assert tokenizer.decode(ids) == "Hello you"


def test_user_defined_tokens_are_found_in_texts_and_control_tokens_are_not() -> None:
    metadata = original(NANO)[1]
    at = metadata["tokenizer.ggml.tokens"].index("[INST]")
    kinds = list(metadata["tokenizer.ggml.token_type"])
    assert at not in load(metadata).encode("a[INST]b")
    kinds[at] = USER_DEFINED
    assert at in load(metadata | {"tokenizer.ggml.token_type": tuple(kinds)}).encode("a[INST]b")


def test_what_is_usually_in_the_file_beside_it() -> None:
    made = gguf_vocabulary.gguf_vocabulary(original(NANO)[1] | {"tokenizer.chat_template": "{{ messages }}"})
    assert made.tokenizer_config == {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "add_bos_token": True,
        "chat_template": "{{ messages }}",
    }
    bare = gguf_vocabulary.gguf_vocabulary(gpt2()[1])
    expected = {"bos_token": None, "eos_token": "<|end|>", "add_bos_token": False, "chat_template": None}
    assert bare.tokenizer_config == expected


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"tokenizer.ggml.model": "bert"}, "'bert'.*gpt2 and llama are"),
        ({"tokenizer.ggml.model": None}, "no name"),
        ({"tokenizer.ggml.model": "x" * 10_000}, "xxx"),
        ({"tokenizer.ggml.pre": "qwen2"}, "'qwen2'.*tekken and gpt-2 are"),
        ({"tokenizer.ggml.pre": None}, "no name"),
        ({"tokenizer.ggml.pre": 5}, "no name"),
    ],
)
def test_what_is_not_known(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        gguf_vocabulary.gguf_vocabulary(original(NANO)[1] | changes)
    assert len(str(caught.value)) < 400


def altered(source: str, key: str, at: int, value: object) -> dict[str, Any]:
    metadata = original(source)[1]
    values = list(metadata[f"tokenizer.ggml.{key}"])
    values[at] = value
    return metadata | {f"tokenizer.ggml.{key}": tuple(values)}


def without(source: str, key: str) -> dict[str, Any]:
    return {name: value for name, value in original(source)[1].items() if name != f"tokenizer.ggml.{key}"}


def with_a_merge_to_a_control_token() -> dict[str, Any]:
    merges = original(NANO)[1]["tokenizer.ggml.merges"]
    return altered(NANO, "tokens", 5, "zĠ") | {"tokenizer.ggml.merges": ("z Ġ", *merges)}


def without_a_way_out() -> dict[str, Any]:
    """No unknown token, and a byte too few."""
    unknown = original(SPM)[1]["tokenizer.ggml.token_type"].index(UNKNOWN)
    return altered(SPM, "token_type", unknown, CONTROL) | altered_tokens(SPM, "<0x41>", "<0x4141>")


def altered_tokens(source: str, old: str, new: str) -> dict[str, Any]:
    key = "tokenizer.ggml.tokens"
    return {key: altered(source, "tokens", original(source)[1][key].index(old), new)[key]}


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: original(NANO)[1] | {"tokenizer.ggml.tokens": ()}, "tokens is not a list of str"),
        (lambda: original(NANO)[1] | {"tokenizer.ggml.tokens": "abc"}, "tokens is not a list of str"),
        (lambda: altered(NANO, "tokens", 5, 5), "tokens is not a list of str"),
        (lambda: without(NANO, "token_type"), "token_type is not a list of int"),
        (lambda: original(NANO)[1] | {"tokenizer.ggml.token_type": (1,)}, "has 1 entries for 4096 tokens"),
        (lambda: altered(NANO, "token_type", 100, 9), "types other than 1 to 6"),
        (lambda: altered(NANO, "tokens", 100, original(NANO)[1]["tokenizer.ggml.tokens"][101]), "twice"),
        (lambda: altered(NANO, "tokens", 100, "x" * 513), "more than 512 characters"),
        (lambda: original(NANO)[1] | altered_tokens(NANO, "Ġ", "Ġ" * 99), "lacks some of the 256 bytes"),
        (lambda: without(NANO, "merges"), "merges is not a list of str"),
        (lambda: altered(NANO, "merges", 0, "e"), "holds 'e', which does not join"),
        (lambda: altered(NANO, "merges", 0, "zzzz Ġ"), "does not join two tokens"),
        (lambda: altered(NANO, "merges", 0, "z Ġ"), "does not join two tokens to a third"),
        (with_a_merge_to_a_control_token, "'z Ġ', which does not join"),
        (lambda: without(SPM, "scores"), "scores is not a list"),
        (lambda: original(SPM)[1] | {"tokenizer.ggml.scores": (0.0,)}, "has 1 entries for 32768 tokens"),
        (lambda: altered(SPM, "scores", 600, float("nan")), "scores that are not finite"),
        (without_a_way_out, "no unknown token"),
        (lambda: original(NANO)[1] | {"tokenizer.ggml.bos_token_id": 4096}, "bos_token_id is none of the 4096"),
        (lambda: original(NANO)[1] | {"tokenizer.ggml.eos_token_id": -1}, "eos_token_id is none of the 4096"),
        (lambda: original(NANO)[1] | {"tokenizer.ggml.add_bos_token": 1}, "is not a truth value"),
        (lambda: original(NANO)[1] | {"tokenizer.chat_template": 1}, "or a text"),
    ],
)
def test_a_vocabulary_that_contradicts_itself(make: Callable[[], dict[str, Any]], why: str) -> None:
    with pytest.raises(TokenizerError, match="vocabulary cannot be used") as caught:
        gguf_vocabulary.gguf_vocabulary(make())
    assert why in str(caught.value)
    assert len(str(caught.value)) < 400


def test_pieces_that_make_each_other_in_many_ways_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_vocabulary, "MAX_MERGED", 1000)
    tokens = tuple("a" * n for n in range(1, 100))
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ("<unk>", *tokens),
        "tokenizer.ggml.token_type": (UNKNOWN, *[NORMAL] * len(tokens)),
        "tokenizer.ggml.scores": tuple(range(len(tokens) + 1)),
    }
    with pytest.raises(TokenizerError, match="in too many ways"):
        gguf_vocabulary.gguf_vocabulary(metadata)
    monkeypatch.setattr(gguf_vocabulary, "MAX_VOCABULARY", 1000)
    with pytest.raises(TokenizerError, match="or too many"):
        gguf_vocabulary.gguf_vocabulary(metadata)


VALUES = st.none() | st.integers(-2, 9) | st.floats() | st.text(max_size=5) | st.booleans()


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from(["gpt2", "llama"]),
    st.dictionaries(
        st.sampled_from(["tokens", "scores", "token_type", "merges", "bos_token_id", "add_bos_token"]),
        VALUES | st.lists(VALUES, max_size=4).map(tuple),
    ),
)
def test_any_values_are_refused_with_a_reason(model: str, changes: dict[str, Any]) -> None:
    source = original(NANO)[1] if model == "gpt2" else gpt2()[1] | {"tokenizer.ggml.model": "llama"}
    with contextlib.suppress(OstroError):
        gguf_vocabulary.gguf_vocabulary(source | {f"tokenizer.ggml.{key}": value for key, value in changes.items()})
