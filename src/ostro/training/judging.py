"""Judges answers to validation examples, whoever gave them: the right text, and the right label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ostro.core.media import MediaInput, Prompt
from ostro.core.request import LabelScore
from ostro.tokenizer.base import Tokenizer
from ostro.training.senses.examples import Example, Sensed
from ostro.training.senses.scenes import parse


@dataclass(frozen=True)
class Answer:
    """text: the whole answer. labels: what the head for labels told, the most probable first."""

    text: str
    labels: Sequence[LabelScore] = ()


def prompt_of(tokenizer: Tokenizer, example: Example) -> Prompt:
    """An example as a model is asked in serving. Raises InvalidRequestError where the template cannot express it."""
    if example.transcribe:
        (media,) = (_input(part) for part in example.messages[-1].parts if isinstance(part, Sensed))
        return tokenizer.render_transcription(media, example.spoken)
    messages = [
        {
            "role": message.role,
            "content": [
                {"type": "text", "text": part} if isinstance(part, str) else {"type": "media", "media": _input(part)}
                for part in message.parts
            ],
        }
        for message in example.messages
    ]
    return tokenizer.render(messages)


def judge(examples: Sequence[Example], answers: Sequence[Answer]) -> dict[str, float]:
    """By task the share of right answers, `<task>`, and of right labels, `<task>_label`, where examples have one; of
    answers also by language, `<task>_en`, by what is asked of a scene, `scene_how_many`, and by the verdict on two
    numbers, `same_equal` and `same_other`: a mean hides what a model cannot do at all.

    An answer about a scene is right where it says the same; any other where it is the same text.
    """
    right: dict[str, list[bool]] = {}
    for example, answer in zip(examples, answers, strict=True):
        is_right = _is_right(example, answer.text)
        for name in _kinds(example):
            right.setdefault(name, []).append(is_right)
        held = {group: label for group, label in example.labels.items() if label is not None}
        if held:
            right.setdefault(f"{example.task}_label", []).append(_labelled(held, answer.labels))
    return {name: sum(found) / len(found) for name, found in sorted(right.items())}


def _kinds(example: Example) -> list[str]:
    """The figures that an answer counts for."""
    kinds = ["", f"_{example.language}"] if example.messages and not example.transcribe else [""]
    if example.task in ("scene", "told_scene") and example.ask is not None:
        kinds.append("_" + example.ask.replace(" ", "_"))
    if example.task in ("same", "told_same"):
        equal = example.answer.rstrip().endswith(("yes", " 是"))
        kinds += ["_equal" if equal else "_other", f"_{example.language}_{'equal' if equal else 'other'}"]
    return [example.task + kind for kind in kinds]


def _is_right(example: Example, text: str) -> bool:
    text = text.strip()
    if example.scene is None or example.ask is None:
        return text == example.answer.strip()
    said, meant = (parse(one, example.language, example.ask, example.scene) for one in (text, example.answer))
    return said is not None and said == meant


def _labelled(held: Mapping[str, str | None], labels: Sequence[LabelScore]) -> bool:
    """Whether the most probable label of each group that holds one is that one."""
    best: dict[str, str] = {}
    for one in labels:
        best.setdefault(one.group, one.label)
    return all(best.get(group) == label for group, label in held.items())


def _input(sensed: object) -> MediaInput:
    assert isinstance(sensed, Sensed), "pictures are developed before they are asked about"
    return MediaInput.of(sensed.modality, sensed.array, sensed.grid)
