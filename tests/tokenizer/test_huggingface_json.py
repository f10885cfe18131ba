"""`tokenizer.json`, where a checkpoint has nothing better: tiny BPE tokenizers made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Inner
from tokenizers.normalizers import Prepend, Replace, Sequence

from ostro.core.errors import InvalidRequestError, TokenizerError
from ostro.tokenizer import Tokenizer, load_tokenizer
from ostro.tokenizer.detokenizer import Detokenizer

CORPUS = ["the cat sat on the mat", "the dog and the cat", "naïve café 😀 你好"] * 5
SPECIALS = ["<unk>", "<s>", "</s>", "[INST]"]


def byte_level() -> Inner:
    inner = Inner(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(CORPUS, trainer)
    # As published files do; bos must not come twice.
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return inner


def llama_like() -> Inner:
    """▁ for a space, byte fallback, one leading space taken away: the shape of converted SentencePiece models."""
    letters = sorted(set("".join(CORPUS).replace(" ", "▁") + "▁") - set("😀你好"))
    tokens = [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256)), *letters, "▁t", "he", "▁the"]
    inner = Inner(
        models.BPE(
            vocab={token: index for index, token in enumerate(tokens)},
            merges=[("▁", "t"), ("h", "e"), ("▁t", "he")],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    inner.add_special_tokens([AddedToken(name, special=True) for name in SPECIALS])
    inner.normalizer = Sequence([Prepend("▁"), Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return inner


def loaded(inner: Inner, folder: Path, config: dict[str, Any] | None = None) -> Tokenizer:
    folder.mkdir(exist_ok=True)
    inner.save(str(folder / "tokenizer.json"))
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(folder)
    assert tokenizer is not None
    return tokenizer


@pytest.fixture(scope="module", params=[byte_level, llama_like])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Inner]:
    inner = request.param()
    return loaded(inner, tmp_path_factory.mktemp("hf")), inner


def test_its_facts(pair: tuple[Tokenizer, Inner]) -> None:
    tokenizer, inner = pair
    assert tokenizer.version == "hf"
    assert tokenizer.vocab_size == inner.get_vocab_size()
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (1, (2,))
    assert tokenizer.is_special(3)
    assert tokenizer.token_bytes(3) == b"[INST]"


@settings(max_examples=60)
@given(text=st.text(st.sampled_from("the cat\n😀你é\x00ÿ"), max_size=20), size=st.integers(1, 4))
def test_text_comes_back_whole_and_in_pieces(pair: tuple[Tokenizer, Inner], text: str, size: int) -> None:
    tokenizer, inner = pair
    ids = tokenizer.encode(text)
    assert ids[0] == 1
    assert 1 not in ids[1:]
    assert tokenizer.decode(ids) == text == inner.decode(ids)
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.push(ids[start : start + size]).text for start in range(0, len(ids), size)]
    assert "".join(pieces) + detokenizer.finish() == text


def test_control_tokens_in_text_stay_text(pair: tuple[Tokenizer, Inner]) -> None:
    tokenizer, _ = pair
    ids = tokenizer.encode("the </s> cat <s>[INST]", bos=False)
    assert not any(tokenizer.is_special(token) for token in ids)


def test_tokens_are_exact_bytes(pair: tuple[Tokenizer, Inner]) -> None:
    tokenizer, _ = pair
    ids = tokenizer.encode("a 😀 the", bos=False)
    assert b"".join(tokenizer.token_bytes(token) for token in ids).lstrip() == "a 😀 the".encode()
    assert b"\xf0" in [tokenizer.token_bytes(token)[-1:] for token in range(4, tokenizer.vocab_size)]


def test_chat_is_refused_with_the_reason(pair: tuple[Tokenizer, Inner]) -> None:
    with pytest.raises(InvalidRequestError, match=r"no chat template.*tekken\.json") as caught:
        pair[0].encode_chat([{"role": "user", "content": "a"}])
    assert caught.value.param == "messages"


@pytest.mark.parametrize("eos", ["[INST]", {"content": "[INST]", "special": True}])
def test_first_and_last_token_are_the_configured_ones(eos: Any, tmp_path: Path) -> None:
    tokenizer = loaded(byte_level(), tmp_path, {"bos_token": "<unk>", "eos_token": eos})
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (0, (3,))


def test_broken_config_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json is not a JSON object"):
        loaded(byte_level(), tmp_path)


def test_decoder_that_is_not_byte_by_byte_is_refused(tmp_path: Path) -> None:
    inner = Inner(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    inner.decoder = decoders.WordPiece()
    with pytest.raises(TokenizerError, match=r"tokenizer\.json has the decoder WordPiece"):
        loaded(inner, tmp_path)
    inner.decoder = None
    with pytest.raises(TokenizerError, match=r"has the decoder none"):
        loaded(inner, tmp_path)
