"""Prompts with images, from what a client sends to token ids, against mistral-common's own rendering, which decodes."""

from __future__ import annotations

import base64
import io
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mistral_common.protocol.instruct.chunk import ImageURLChunk, TextChunk
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from PIL import Image

from ostro.core.media import Prompt
from ostro.core.sampling import SamplingParams
from ostro.engine.llm import LLM
from ostro.media.image import ImageSettings
from ostro.media.inline import split_inline
from ostro.media.parts import find_sources, put_back, read_source
from ostro.media.senses import Senses
from ostro.tokenizer import Tokenizer, load_tokenizer
from seeing import write_seeing_model
from tokenizer.tokenizer_files import put, write_tekken

# What of the library's files knows images, and versions that it does not ship.
SHIPPED = ("tekken_240911.json", "mistral_instruct_tokenizer_241114.model.v7m1")
WRITTEN = ("v3", "v7", "v11", "v13", "v15")
IMAGE_SECTION = {"image_patch_size": 14, "max_image_size": 112, "spatial_merge_size": 2}
# Width and height: wide, high, of a single token, and larger than the model's.
SIZES = ((70, 40), (30, 100), (13, 13), (1100, 300))
_theirs = {"system": SystemMessage, "user": UserMessage, "assistant": AssistantMessage}

# Turns by role; of a user's, texts and numbers of images.
CONVERSATIONS: dict[str, list[tuple[str, Any]]] = {
    "text before": [("user", ["what is it", 0])],
    "text behind": [("user", [0, "what is it"])],
    "text around": [("user", ["this", 0, "or that", 1, "which"])],
    "image alone": [("user", [2])],
    "image last": [("user", ["this", 0, "and that", 1])],
    "images in a row": [("user", ["these", 0, 1, 2])],
    "images first": [("user", [3, 1, "which"])],
    "two texts before": [("user", ["look", "closely", 1])],
    "one twice": [("user", [0, "and again", 0])],
    "system": [("system", "be brief"), ("user", ["what is it", 0])],
    "several turns": [
        ("user", ["what is it", 0]),
        ("assistant", "a river"),
        ("user", [1, "and this", 2]),
        ("assistant", "a bridge"),
        ("user", "and what was first"),
    ],
    "system and turns": [
        ("system", "be brief"),
        ("user", [0, 1]),
        ("assistant", "rivers"),
        ("user", ["the same", 1]),
    ],
    "two in a row": [("user", ["look", 0]), ("user", ["what is it"])],
}


def url(number: int) -> str:
    width, height = SIZES[number]
    values = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(values).save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


def sent(turns: Sequence[tuple[str, Any]]) -> list[dict[str, Any]]:
    """As a client of OpenAI's writes it."""

    def part(one: str | int) -> dict[str, Any]:
        if isinstance(one, str):
            return {"type": "text", "text": one}
        return {"type": "image_url", "image_url": {"url": url(one)}}

    return [
        {"role": role, "content": content if isinstance(content, str) else [part(one) for one in content]}
        for role, content in turns
    ]


def rendered(tokenizer: Tokenizer, senses: Senses, messages: list[dict[str, Any]]) -> Prompt:
    messages = split_inline(messages, senses)
    found = {}
    for source in find_sources(messages, senses):
        assert source.data is not None
        found[source.place] = read_source(source, source.data, source.declared, senses)
    return tokenizer.render(put_back(messages, found))


def of_mistral(tokenizer: MistralTokenizer, turns: Sequence[tuple[str, Any]]) -> Any:
    messages = [
        _theirs[role](
            content=content
            if isinstance(content, str)
            else [TextChunk(text=one) if isinstance(one, str) else ImageURLChunk(image_url=url(one)) for one in content]
        )
        for role, content in turns
    ]
    return tokenizer.encode_chat_completion(ChatCompletionRequest(messages=messages))


def check_order(prompt: Prompt, images: Sequence[np.ndarray]) -> None:
    """Every image stands where theirs does: its places are in the order of their pixels."""
    by_digest = {one.digest: one for one in prompt.media}
    rows = [span.digest for span in prompt.spans]
    order: list[str] = []
    while rows:
        order.append(rows[0])
        del rows[: by_digest[rows[0]].grid[0]]
    assert len(order) == len(images)
    for digest, pixels in zip(order, images, strict=True):
        # Which image it is; how near its pixels must be is tested where they are made.
        np.testing.assert_allclose(by_digest[digest].array(), pixels, atol=1e-2)


def loaded(name: str, folder: Path) -> tuple[MistralTokenizer, Tokenizer, Senses]:
    """Theirs, ours, and how both are to see. name: a shipped file, or a version to write one of."""
    if name in SHIPPED:
        path = put(name, folder)
    else:
        path = write_tekken(folder, name)
        path.write_text(json.dumps({**json.loads(path.read_text()), "image": IMAGE_SECTION}))
    theirs, ours = MistralTokenizer.from_file(path), load_tokenizer(folder)
    encoder = theirs.instruct_tokenizer.image_encoder
    assert encoder is not None
    assert ours is not None
    config = encoder.image_config
    return (
        theirs,
        ours,
        Senses(ImageSettings(config.image_patch_size * config.spatial_merge_size, config.max_image_size)),
    )


@pytest.fixture(scope="module", params=[*SHIPPED, *WRITTEN])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[MistralTokenizer, Tokenizer, Senses]:
    return loaded(request.param, tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_prompts_are_mistral_common_s(pair: tuple[MistralTokenizer, Tokenizer, Senses], name: str) -> None:
    theirs, ours, senses = pair
    turns = CONVERSATIONS[name]
    wanted = of_mistral(theirs, turns)
    prompt = rendered(ours, senses, sent(turns))
    assert prompt.token_ids == wanted.tokens
    check_order(prompt, wanted.images)
    place = ours.placeholders["image"]
    covered = list(itertools.chain.from_iterable(range(span.start, span.stop) for span in prompt.spans))
    assert covered == [at for at, token in enumerate(prompt.token_ids) if token == place]


def test_the_template_moves_an_image_behind_a_text(pair: tuple[MistralTokenizer, Tokenizer, Senses]) -> None:
    """So that the conversations above do ask for it: behind texts alone it is put first, with others none moves."""
    _, ours, senses = pair
    starts = [
        rendered(ours, senses, sent(CONVERSATIONS[name])).spans[0].start
        for name in ("image alone", "text behind", "text before", "image last")
    ]
    assert starts[0] == starts[1] == starts[2] < starts[3]


def test_a_served_model_is_asked_with_those_tokens(tmp_path: Path) -> None:
    """The same through the whole of the offline engine."""
    write_seeing_model(tmp_path)
    path = tmp_path / "tekken.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "image": IMAGE_SECTION}))
    theirs, llm = MistralTokenizer.from_file(path), LLM(tmp_path, threads=1)
    for turns in CONVERSATIONS.values():
        (output,) = llm.chat(sent(turns), SamplingParams(temperature=0, max_tokens=1))
        assert output.prompt_token_ids == of_mistral(theirs, turns).tokens
