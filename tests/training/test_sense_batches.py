"""Batches against rows made one by one: the template's tokens, the same numbers, and gradients that reach encoders."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sense_data import SENSES, SHARES, material, tiny_decoder, training_tasks, write_tokenizer

from ostro.core.errors import TrainingError
from ostro.core.media import MediaInput
from ostro.models.layers.context import DenseContext
from ostro.models.layers.encoder import finished
from ostro.models.ostro.config import MODALITIES, AdapterConfig, GateConfig, LabelGroup, OstroConfig
from ostro.models.ostro.model import UnifiedDecoder
from ostro.models.ostro.stems import ConvConfig, StemConfig
from ostro.tokenizer.mistral import TekkenTokenizer
from ostro.training.senses.batches import IGNORED, Batcher, SenseBatch, embed, first_fit
from ostro.training.senses.contrast import ContrastiveLoss
from ostro.training.senses.examples import Example, Sensed

GROUPS = tuple(LabelGroup(name, labels) for name, labels in material().labels.items())


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TekkenTokenizer:
    return write_tokenizer(tmp_path_factory.mktemp("tekken"))


@pytest.fixture(scope="module")
def model(tokenizer: TekkenTokenizer) -> UnifiedDecoder:
    places = tokenizer.placeholders
    stems = (
        StemConfig("image", 3, (ConvConfig(8, 4, 4), ConvConfig(16, 3, 2)), 1, 2, 24, places["image"]),
        StemConfig("audio", 16, (ConvConfig(16, 3, 2), ConvConfig(16, 3, 2)), 1, 2, 24, places["audio"]),
        StemConfig("series", 4, (ConvConfig(16, 4, 4),), 0, 1, 1, places["series"]),
    )
    base = tiny_decoder()
    fields = {field.name: getattr(base, field.name) for field in dataclasses.fields(base)}
    fields |= {"unrotated": 2, "encoders": stems}
    torch.manual_seed(0)
    made = UnifiedDecoder(
        OstroConfig(
            **fields,
            adapter=AdapterConfig(1, 8),
            gate=GateConfig(1, (16, 48), (0.0,)),
            routing=True,
            labels=GROUPS,
            embedding=12,
        )
    )
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.fill_(1.0) if "norm" in name else parameter.normal_(std=0.1)
    return made


def examples(count: int = 24, step: int = 0, shares: dict[str, float] | None = None) -> list[Example]:
    return training_tasks(7, shares).examples(step, count)


def served(tokenizer: TekkenTokenizer, example: Example) -> Any:
    """The prompt that serving makes of the same messages, with the places of media."""
    messages = []
    for message in example.messages:
        content = [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "media", "media": MediaInput.of(part.modality, part.array, part.grid)}
            for part in message.parts
            if not isinstance(part, tuple)
        ]
        messages.append({"role": message.role, "content": content})
    if example.transcribe:
        media: MediaInput = messages[0]["content"][0]["media"]
        return tokenizer.render_transcription(media, example.spoken)
    return tokenizer.render(messages)


def documents(batch: SenseBatch) -> list[torch.Tensor]:
    """Rows of the flat batch that each document takes, sorted by where it begins."""
    length = len(batch.inputs_T) // batch.rows
    row_T = torch.arange(len(batch.inputs_T)) // length
    keys = (row_T * 1000 + batch.segments_T).where(batch.segments_T >= 0, -1)
    return [torch.nonzero(keys == key)[:, 0] for key in keys.unique().tolist() if key >= 0]


def test_prompts_are_those_of_the_chat_template(tokenizer: TekkenTokenizer) -> None:
    batcher = Batcher(tokenizer, GROUPS)
    for example in examples(80):
        batch = batcher.batch([example])
        (rows,) = documents(batch)
        ids = [*batch.inputs_T[rows].tolist(), int(batch.targets_T[rows[-1]])]
        if example.task == "text":
            assert ids == tokenizer.encode(example.answer)
            assert not len(batch.ends_N)
            continue
        prompt = served(tokenizer, example)
        answer = tokenizer.encode(example.answer, bos=False)
        assert ids == [*prompt.token_ids, *answer, tokenizer.eos_ids[0]]
        assert batch.ends_N.tolist()[-1] == len(prompt.token_ids) - 1
        places = [at for span in prompt.spans for at in range(span.start, span.stop)]
        assert [at for one in batch.media for at in one.rows_N.tolist()] == places
        assert torch.nonzero(batch.modalities_T)[:, 0].tolist() == places
        (modality,) = {span.modality for span in prompt.spans} or {"text"}
        assert {MODALITIES[number] for number in batch.modalities_T[places].tolist()} <= {modality}


def test_targets_are_answers_and_their_ends(tokenizer: TekkenTokenizer) -> None:
    batch = Batcher(tokenizer, GROUPS).batch(made := examples(60))
    said: list[str] = []
    for rows in documents(batch):
        targets = batch.targets_T[rows][batch.weights_T[rows] > 0].tolist()
        if targets[-1] != tokenizer.eos_ids[0]:
            said.append(tokenizer.decode(targets))
            continue
        ends = [0, *(at + 1 for at, token in enumerate(targets) if token == tokenizer.eos_ids[0])]
        said += [tokenizer.decode(targets[a:b]) for a, b in pairwise(ends)]
    answers = [example.answer for example in made]
    answers += [m.parts[0] for e in made for m in e.messages if m.role == "assistant" and isinstance(m.parts[0], str)]
    assert sorted(said) == sorted(answers)
    assert not batch.weights_T[batch.segments_T < 0].any()
    placeholders = list(tokenizer.placeholders.values())
    assert not torch.isin(batch.targets_T[batch.weights_T > 0], torch.tensor(placeholders)).any()


def test_requests_of_words_alone_count_as_much_as_was_asked(tokenizer: TekkenTokenizer) -> None:
    """What is said in front of something sensed has a few wordings only, and counts nothing."""
    for example in examples(60):
        plain, asked = (Batcher(tokenizer, GROUPS, asked=weight).batch([example]) for weight in (0.0, 0.25))
        more_T = asked.weights_T - plain.weights_T
        words = []
        for message in example.messages:
            if not all(isinstance(part, str) for part in message.parts):
                break  # nor does what is asked behind it
            if message.role == "user":
                words.append("".join(part for part in message.parts if isinstance(part, str)))
        assert set(more_T.tolist()) <= {0.0, 0.25}
        assert tokenizer.decode(asked.targets_T[more_T > 0].tolist()) == "".join(words)


def test_split_tokens_are_written_the_same_and_only_in_what_users_say(tokenizer: TekkenTokenizer) -> None:
    split = 0
    for example in examples(40, shares={"intent": 1.0}):
        plain, cut = (
            Batcher(tokenizer, GROUPS).batch([dataclasses.replace(example, splits=chance)])
            for chance in (None, (0.5, 3))
        )
        plain_T, cut_T = plain.inputs_T.tolist(), cut.inputs_T.tolist()
        assert tokenizer.decode(cut_T) == tokenizer.decode(plain_T)
        split += sum(token != tokenizer.special_id("<pad>") for token in cut_T) - sum(
            token != tokenizer.special_id("<pad>") for token in plain_T
        )
        assert cut.targets_T[cut.weights_T > 0].tolist() == plain.targets_T[plain.weights_T > 0].tolist()
        again = Batcher(tokenizer, GROUPS).batch([dataclasses.replace(example, splits=(0.5, 3))])
        assert again.inputs_T.tolist() == cut_T, "a resumed run reads the same"
    assert split > 50


def test_plain_text_weighs_what_it_is_given(tokenizer: TekkenTokenizer) -> None:
    for example in examples(30):
        whole, light = (Batcher(tokenizer, GROUPS, asked=0.1, plain=weight).batch([example]) for weight in (1.0, 0.25))
        factor = 1.0 if example.messages else 0.25
        torch.testing.assert_close(light.weights_T, factor * whole.weights_T)


def prompts_of(example: Example) -> list[tuple[Example, Mapping[str, str | None]]]:
    """The conversation up to each of its answers, and the labels there."""
    said = example.messages
    turns = [at for at, message in enumerate(said) if message.role == "assistant"]
    earlier = [(dataclasses.replace(example, messages=said[:at]), said[at].labels) for at in turns]
    return [*earlier, (example, example.labels)] if said else []


def test_labels_stand_where_answers_begin(tokenizer: TekkenTokenizer) -> None:
    made = examples(60)
    batch = Batcher(tokenizer, GROUPS).batch(made)
    prompted = [one for example in made for one in prompts_of(example)]
    assert len(prompted) > sum(bool(example.messages) for example in made), "some have several turns"
    lengths = [len(served(tokenizer, example).token_ids) for example, _ in prompted]
    assert (batch.positions_T[batch.ends_N] + 1).tolist() == lengths
    for group in GROUPS:
        for (_, labels), number in zip(prompted, batch.labels[group.name].tolist(), strict=True):
            expected = labels.get(group.name, "ignored")
            found = {IGNORED: "ignored", len(group.labels): None}.get(number, None if number < 0 else "label")
            assert found == ("label" if expected not in ("ignored", None) else expected)
            if found == "label":
                assert group.labels[number] == expected
    with pytest.raises(TrainingError, match="not in the model's group 'digit'"):
        Batcher(tokenizer, (LabelGroup("digit", ("none of them",)),)).batch(made)


def alone(model: UnifiedDecoder, tokenizer: TekkenTokenizer, example: Example) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states of one example by itself, its media encoded one by one: all of them, and at the prompt's end."""
    if example.messages:
        prompt = served(tokenizer, example)
        ids = [*prompt.token_ids, *tokenizer.encode(example.answer, bos=False)]
        spans, end = prompt.spans, len(prompt.token_ids) - 1
    else:
        ids, spans, end = tokenizer.encode(example.answer)[:-1], [], 0
    x_TD = model.embed(torch.tensor(ids), torch.float32).clone()
    modalities = torch.zeros(len(ids), dtype=torch.int64)
    arrays = [part for message in example.messages for part in message.parts if isinstance(part, Sensed)]
    by_digest = {MediaInput.of(one.modality, one.array, one.grid).digest: one for one in arrays}
    for span in spans:
        encoder = model.encoder(span.modality)
        assert encoder is not None
        (rows,) = finished(encoder.encode([torch.tensor(by_digest[span.digest].array)]))
        x_TD[span.start : span.stop] = rows[span.offset : span.offset + span.length]
        modalities[span.start : span.stop] = MODALITIES.index(span.modality)
    hidden = model(x_TD, torch.arange(len(ids)), DenseContext(modalities_T=modalities))
    return hidden, hidden[end]


def test_a_batch_equals_its_examples_one_by_one(model: UnifiedDecoder, tokenizer: TekkenTokenizer) -> None:
    made = examples(24, step=2)
    batch = Batcher(tokenizer, GROUPS, row_length=128).batch(made)
    assert {one.modality for one in batch.media} == {"image", "audio", "series"}
    with torch.inference_mode():
        hidden = model(embed(model, batch), batch.positions_T, batch.context())
        ends = iter(batch.ends_N.tolist())
        for example in made:
            whole, at_end = alone(model, tokenizer, example)
            if not example.messages:
                continue
            end = [next(ends) for _ in prompts_of(example)][-1]
            torch.testing.assert_close(hidden[end], at_end, atol=1e-4, rtol=1e-4)
            start = end - int(batch.positions_T[end])
            torch.testing.assert_close(hidden[start : start + len(whole)], whole, atol=1e-4, rtol=1e-4)


def test_gradients_reach_every_part(model: UnifiedDecoder, tokenizer: TekkenTokenizer) -> None:
    batch = Batcher(tokenizer, GROUPS).batch(examples(40))
    model.zero_grad()
    scores: list[torch.Tensor] = []
    hidden = model(embed(model, batch), batch.positions_T, batch.context(dropout=0.1), scores=scores)
    counted = batch.weights_T > 0
    loss = F.cross_entropy(model.logits(hidden[counted]), batch.targets_T[counted])
    for group, logits in zip(GROUPS, model.label_logits(hidden[batch.ends_N]), strict=True):
        loss = loss + F.cross_entropy(logits, batch.labels[group.name], ignore_index=IGNORED)
    loss.backward()  # type: ignore[no-untyped-call]  # torch has no hints here
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert [name for name in without if not name.startswith(("gate", "embedding_head"))] == []


def test_pairs_bring_what_is_sensed_and_its_caption(model: UnifiedDecoder, tokenizer: TekkenTokenizer) -> None:
    made = examples(
        20, shares={name: 1.0 for name in SHARES if name not in ("intent", "text", "told_scene", "told_same")}
    )
    batcher = Batcher(tokenizer, GROUPS)
    sensed, said, captions = batcher.pairs(made)
    assert captions == [example.caption for example in made]
    assert len(sensed.ends_N) == len(said.ends_N) == len(made)
    assert not sensed.weights_T.any()
    for example, last in zip(made, sensed.ends_N.tolist(), strict=True):
        (one,) = (part for message in example.messages for part in message.parts if isinstance(part, Sensed))
        as_served = tokenizer.encode_media(MediaInput.of(one.modality, one.array, one.grid)).token_ids
        start = last - int(sensed.positions_T[last])
        assert sensed.inputs_T[start : last + 1].tolist() == as_served
    for caption, last in zip(captions, said.ends_N.tolist(), strict=True):
        start = last - int(said.positions_T[last])
        assert said.inputs_T[start : last + 1].tolist() == tokenizer.encode(caption)
    assert not said.media
    model.zero_grad()
    vectors = [
        model.embedding_head(model(embed(model, one), one.positions_T, one.context())[one.ends_N])  # type: ignore[misc]  # a Module's attributes have no types
        for one in (sensed, said)
    ]
    ContrastiveLoss(temperature=0.1)(*vectors, captions).backward()
    for encoder in model.encoders.values():
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())
    with pytest.raises(TrainingError, match="task 'intent' has no caption"):
        batcher.pairs(examples(3, shares={"intent": 1.0}))


def test_a_model_without_a_sense_is_told_so(tokenizer: TekkenTokenizer, model: UnifiedDecoder) -> None:
    batch = Batcher(tokenizer, GROUPS).batch(examples(10, shares={"series": 1.0}))
    deaf = UnifiedDecoder(dataclasses.replace(model.unified, encoders=()))
    with pytest.raises(TrainingError, match="sense 'series', which the model does not have"):
        embed(deaf, batch)


def test_a_batch_can_be_moved(tokenizer: TekkenTokenizer) -> None:
    batch = Batcher(tokenizer, GROUPS).batch(examples(60))
    for one, other in zip(batch.media, batch.to("cpu").media, strict=True):
        assert len({tuple(x.shape) for x in one.inputs}) > 1
        assert all(map(torch.equal, one.inputs, other.inputs))
    moved = batch.to("meta")
    for tensor in (
        moved.inputs_T,
        moved.ends_N,
        moved.media[0].inputs[0],
        moved.media[0].rows_N,
        moved.labels["photo"],
    ):
        assert tensor.device.type == "meta"
    assert moved.rows == batch.rows


@settings(max_examples=100, deadline=None)
@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=40), length=st.integers(50, 80))
def test_documents_lie_in_rows_without_overlap(sizes: list[int], length: int) -> None:
    taken: set[tuple[int, int]] = set()
    placed = first_fit(sizes, length)
    for size, (row, at, _) in zip(sizes, placed, strict=True):
        places = {(row, at + i) for i in range(size)}
        assert at + size <= length
        assert not taken & places
        taken |= places
    assert len({(row, number) for row, _, number in placed}) == len(sizes)
    rows = 1 + max(row for row, _, _ in placed)
    assert rows <= 2 * -(-sum(sizes) // length), "first fit is at most about 1.7 times the least"


def test_training_of_text_still_renders_as_before(tmp_path: Path, tokenizer: TekkenTokenizer) -> None:
    """The control token for series stands behind the family's, whose numbers do not change."""
    assert tokenizer.special_id("[SERIES]") == 33
    assert tokenizer.special_id("[IMG]") == 10
    assert SENSES.names == ("image", "audio", "series")
