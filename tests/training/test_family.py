"""A whole family run on tiny data: every stage, what it writes, and going on after a break."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from sense_data import write_digits, write_photos

from ostro.core.errors import ConfigError
from ostro.core.sampling import SamplingParams
from ostro.engine.llm import LLM
from ostro.media.series import SeriesSettings
from ostro.models.ostro.encoder import StemEncoder
from ostro.models.ostro.model import UnifiedDecoder
from ostro.models.ostro.stems import StemConfig
from ostro.training.family import EdgeRecipe, FamilyRecipe, edge_of, prepare, run_family
from ostro.training.gate import calibrate
from ostro.training.pairs import SignalPairs
from ostro.training.pretrain import Pretrainer, PretrainRecipe, initialise_encoder
from ostro.training.senses.tasks import Manner
from ostro.training.unified import UnifiedLoss, UnifiedObjective, align_groups, level_losses
from ostro.weights.loader import load_model

STAGE: dict[str, Any] = {
    "optimiser": {"steps": 2, "tokens": 1, "rate": 0.003, "warmup": 1, "save_every": 1, "evaluate_every": 2},
    "objective": {"examples": 8, "pairs": 6},
    "tasks": {"photo": 1, "scene": 1, "digit": 1, "transcription": 1, "same": 1, "series": 1, "intent": 2, "text": 1},
}
STEM = {"num_layers": 1, "num_heads": 2, "intermediate_size": 32}
RECIPE: dict[str, Any] = {
    "kind": "family",
    "name": "tiny",
    "seed": 7,
    "tokenizer": {"vocab_size": 420, "num_special": 48},
    "data": {
        "questions": "questions.csv",
        "labels": "labels.json",
        "text": "plays.txt",
        "photos": "photos.zip",
        "digits": "digits.zip",
        "photo_side": 16,
        "validation": 0.2,
        "audio": {
            "sampling_rate": 16000,
            "frame_rate": 25.0,
            "audio_encoding_config": {"num_mel_bins": 16, "hop_length": 160, "window_size": 400},
        },
    },
    "encoders": {
        "image": {"channels": 3, "convolutions": [{"channels": 16, "pool": 2}, {"channels": 32, "pool": 4}], **STEM},
        "audio": {"channels": 16, "convolutions": [{"channels": 32, "kernel": 4, "stride": 4}], **STEM},
        "series": {"channels": 4, "convolutions": [{"channels": 16, "kernel": 4, "stride": 4}], "num_heads": 1},
    },
    "shape": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_layers": 3,
        "num_heads": 2,
        "num_kv_heads": 1,
        "head_dim": 16,
        "context": 512,
        "widths": [16, 32, 64],
        "adapter": 8,
        "routing": True,
        "embedding": 16,
    },
    "pretrain": {
        sense: {"steps": 2, "batch": 4, "save_every": 1, "evaluate_every": 2, "width": 16}
        for sense in ("image", "audio", "series")
    },
    "align": STAGE,
    "joint": STAGE,
}

EDGE: dict[str, Any] = {
    "name": "tiny-edge",
    "encoders": RECIPE["encoders"],
    "shape": {**RECIPE["shape"], "num_layers": 2, "adapter_layer": 1},
    "pretrain": RECIPE["pretrain"],
    "align": STAGE,
    "joint": STAGE,
    "quantization": {"scheme": "int8", "rounding": "gptq", "layers": [{"match": "*router*", "scheme": "dense"}]},
    "card": "edge-card.md",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_photos(folder / "photos.zip")
    write_digits(folder / "digits.zip")
    asked = [(f"where is my {word} number {i}", f"{word}_lost") for word in ("card", "pin") for i in range(12)]
    rows = "".join(f"{text},{label}\n" for text, label in asked)
    (folder / "questions.csv").write_text("text,category\n" + rows)
    (folder / "labels.json").write_text(json.dumps(["card_lost", "pin_lost"]))
    (folder / "plays.txt").write_text("The quality of mercy is not strained,\nit droppeth as the gentle rain.\n" * 80)
    return folder


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums depend on how many threads share them, and models that are loaded meanwhile set that."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def recipe(**changes: Any) -> FamilyRecipe:
    return msgspec.convert({**RECIPE, **changes}, FamilyRecipe)


def silent(*_: object) -> None: ...


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[str, int]]]:
    out = tmp_path_factory.mktemp("run")
    seen: list[tuple[str, int]] = []
    (one,) = run_family(recipe(), data, out, watch=lambda stage, step, *_: seen.append((stage, step)))
    assert one.gate is not None
    assert one.gate.share <= 0.38 + 1e-9
    return out, seen


def test_every_stage_runs_and_is_watched(trained: tuple[Path, list[tuple[str, int]]]) -> None:
    out, seen = trained
    stages = ["image encoder", "audio encoder", "series encoder", "align", "joint"]
    assert seen == [(stage, step) for stage in stages for step in (1, 2)]
    for stage in stages:
        rows = [json.loads(line) for line in (out / f"log-{stage.replace(' ', '-')}.jsonl").read_text().splitlines()]
        assert all(row["loss"] > 0 for row in rows)
        assert "accuracy" in rows[-1] or "validation_loss" in rows[-1]
    align = json.loads((out / "log-align.jsonl").read_text().splitlines()[0])
    assert {"text", "labels", "contrast", "gate"} <= set(align)


def test_what_is_written_answers_with_every_sense(trained: tuple[Path, list[tuple[str, int]]], data: Path) -> None:
    import base64
    import zipfile

    folder = trained[0] / "model"
    llm = LLM(folder, threads=1)
    assert llm.engine.card.modalities == ["image", "audio", "series"]
    with zipfile.ZipFile(data / "photos.zip") as photos, zipfile.ZipFile(data / "digits.zip") as digits:
        image = base64.b64encode(photos.read("dog/0001.jpg")).decode()
        sound = base64.b64encode(digits.read("3_ann_6.wav")).decode()
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{image}"}},
        {"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}},
        {"type": "input_series", "input_series": [1.0, 2.0, 3.0, 4.0, 5.0]},
        {"type": "text", "text": "描述这张图片"},
    ]
    (output,) = llm.chat([{"role": "user", "content": parts}], SamplingParams(max_tokens=4, temperature=0))
    assert output.usage.prompt_tokens > 10
    model = load_model(folder)
    assert isinstance(model, UnifiedDecoder)
    assert [group.name for group in model.unified.labels] == ["photo", "digit", "series", "intent"]
    assert model.gate is not None
    assert model.gate.thresholds == tuple(json.loads((trained[0] / "gate.json").read_text())["thresholds"])


def test_the_command_trains_and_measures(data: Path, tmp_path: Path) -> None:
    import yaml
    from typer.testing import CliRunner

    from ostro.cli import build_app
    from ostro.cli import train_family as command

    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump({**RECIPE, "card": "card.md", "edge": EDGE}))
    (tmp_path / "card.md").write_text("photos: {photo:.1%}\n")
    (tmp_path / "edge-card.md").write_text("bytes: {edge_bytes:.0f}, of {bytes:.0f}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "EXAMPLES", 4)
        patch.setattr(command.measure, "__defaults__", (4,))
        arguments = [
            "train",
            str(file),
            "--data",
            str(data),
            "--out",
            str(tmp_path / "run"),
            "--json",
            "--threads",
            "1",
        ]
        done = CliRunner().invoke(build_app(), arguments)
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout.splitlines()[-1])
    for task in ("photo", "scene", "digit", "transcription", "same", "series", "intent"):
        assert 0 <= figures[task] <= 1
        assert 0 <= figures[f"{task}_new_words"] <= 1
    assert {"photo_label", "digit_label", "intent_label", "gate_share"} <= figures.keys()
    assert (tmp_path / "run" / "log-joint.png").stat().st_size > 1000
    assert "joint 2/2" in done.stderr
    assert "edge joint 2/2" in done.stderr
    assert (tmp_path / "run" / "model" / "README.md").read_text() == f"photos: {figures['photo']:.1%}\n"
    folder = tmp_path / "run" / "edge" / "model"
    size = sum(part.stat().st_size for part in folder.glob("*.safetensors"))
    assert figures["edge_bytes"] == size
    assert (folder / "README.md").read_text() == f"bytes: {size}, of {figures['bytes']:.0f}\n"
    assert figures["edge_parameters"] < figures["parameters"]
    assert 0 <= figures["edge_photo_new_words"] <= 1
    # Attention 32 x (2 x 32 + 2 x 16) with its router, three matrices of 32 x 64, two norms; adapters of 8 channels.
    layer = 32 * 96 + 32 * 2 * 4 + 3 * 32 * 64 + 2 * 32
    assert figures["edge_saved_parameters"] == 3 * (layer - 2 * 32 * 8 - 32)
    smaller = load_model(folder)
    assert smaller.quantised
    assert isinstance(smaller, UnifiedDecoder)
    assert smaller.gate is not None
    assert smaller.gate.thresholds == tuple(json.loads((folder.parent / "gate.json").read_text())["thresholds"])


def test_a_card_that_is_not_there_is_told_before_anything_is_trained(data: Path, tmp_path: Path) -> None:
    from ostro.cli.train_family import train_family

    file = tmp_path / "tiny.yaml"
    with pytest.raises(ConfigError, match=r"model card .*none\.md cannot be read"):
        train_family({**RECIPE, "card": "none.md"}, file, data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_who_answers_as_its_teacher_has_nothing_to_learn(
    trained: tuple[Path, list[tuple[str, int]]], data: Path
) -> None:
    """All of the target is the teacher's; so the loss is least where the student is its copy."""
    family = prepare(recipe(), data, trained[0])
    teacher = load_model(trained[0] / "model", dtype=torch.float32)
    assert isinstance(teacher, UnifiedDecoder)
    objective = msgspec.convert(
        {"examples": 12, "labels": 1.0, "contrast": 0.0, "gate": 0.0, "whole": 1.0, "distil": 1.0}, UnifiedObjective
    )
    loss_of = UnifiedLoss(
        objective, family.tasks(STAGE["tasks"], Manner(training=True)), None, family.batcher(), teacher=teacher
    )

    def gradient(change: float) -> float:
        student = copy.deepcopy(teacher).requires_grad_(True)
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.mul_(1 + change)
        loss, figures = loss_of(student, 0)
        assert figures["labels"] > 0
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no hints here
        return float(sum(p.grad.norm() for p in student.parameters() if p.grad is not None))

    assert gradient(0.0) < 1e-3 < 0.01 < gradient(0.1)


def test_an_encoder_comes_nearer_to_its_teacher(tmp_path: Path) -> None:
    stem = StemConfig.parse("series", {**RECIPE["encoders"]["series"], "placeholder": 9})
    teacher = StemEncoder(stem, 24)
    torch.manual_seed(1)
    initialise_encoder(teacher)

    def distances(imitation: float) -> list[float]:
        values = {"steps": 60, "batch": 16, "width": 8, "precision": "fp32", "imitation": imitation}
        trainer = Pretrainer(
            StemEncoder(stem, 16),
            SignalPairs(SeriesSettings(stem.side), 10),
            msgspec.convert(values, PretrainRecipe),
            hidden_size=16,
            seed=3,
            folder=tmp_path / str(imitation),
            fingerprint="",
            teacher=teacher,
            taught=24,
        )
        found: list[float] = []
        trainer.run(lambda _, figures: found.append(figures.get("imitation", 0.0)))
        return found

    with_teacher = distances(5.0)
    assert 0 < with_teacher[-1] < 0.7 * with_teacher[0]
    assert set(distances(0.0)) == {0.0}


def test_a_smaller_model_shares_the_tokens_of_its_teacher(data: Path, tmp_path: Path) -> None:
    coarse = {**RECIPE["encoders"]["series"], "convolutions": [{"channels": 16, "kernel": 8, "stride": 8}]}
    family = prepare(recipe(), data, tmp_path)
    encoders = {**RECIPE["encoders"], "series": coarse}
    with pytest.raises(ConfigError, match="tokens of 8 elements"):
        edge_of(family, msgspec.convert({**EDGE, "encoders": encoders}, EdgeRecipe), UnifiedDecoder(family.config))
    del encoders["series"]
    with pytest.raises(ConfigError, match="must have the senses of tiny"):
        edge_of(family, msgspec.convert({**EDGE, "encoders": encoders}, EdgeRecipe), UnifiedDecoder(family.config))


def test_answers_are_judged_by_what_they_say(trained: tuple[Path, list[tuple[str, int]]], data: Path) -> None:
    from ostro.core.request import LabelScore
    from ostro.training.judging import Answer, judge

    family = prepare(recipe(), data, trained[0])
    shares = {"photo": 1.0, "scene": 3.0, "intent": 1.0}
    examples = family.tasks(shares, Manner(training=False)).examples(0, 40)
    perfect = [
        Answer(one.answer, [LabelScore(label, 0.9, group) for group, label in one.labels.items() if label])
        for one in examples
    ]
    assert set(judge(examples, perfect).values()) == {1.0}
    wrong = judge(examples, [Answer("no idea") for _ in examples])
    assert set(wrong.values()) == {0.0}
    assert {"photo", "scene", "intent", "photo_label", "intent_label"} <= wrong.keys()


def test_a_run_that_was_broken_off_gives_the_same_weights(
    trained: tuple[Path, list[tuple[str, int]]], data: Path, tmp_path: Path
) -> None:
    class BrokenError(Exception):
        pass

    for stage in ("image encoder", "align", "joint"):

        def stop(name: str, step: int, *_: object, at: str = stage) -> None:
            if (name, step) == (at, 1):
                raise BrokenError

        with pytest.raises(BrokenError):
            run_family(recipe(), data, tmp_path, watch=stop)
    run_family(recipe(), data, tmp_path, watch=silent)
    first, second = load_model(trained[0] / "model"), load_model(tmp_path / "model")
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_alignment_leaves_encoders_as_they_were(trained: tuple[Path, list[tuple[str, int]]], data: Path) -> None:
    model = load_model(trained[0] / "model")
    assert isinstance(model, UnifiedDecoder)
    trained_ids = {id(p) for group in align_groups(model, 0.1) for p in group["params"]}
    for name, parameter in model.named_parameters():
        encoder = name.startswith("encoders.") and ".projector." not in name
        assert (id(parameter) in trained_ids) is not encoder, name
    for encoder in model.encoders.values():
        assert isinstance(encoder, StemEncoder)
        assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in encoder.modules())


def test_a_vocabulary_without_places_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.audio"):
        run_family(recipe(data={**RECIPE["data"], "audio": None}), data, tmp_path, watch=silent)


def test_thresholds_are_the_best_within_the_compute() -> None:
    """Tokens whose loss wide channels halve, and others that they do nothing for; the scores know which."""
    hard = torch.arange(1000) % 4 == 0
    losses = torch.stack([torch.where(hard, 4.0, 1.0), torch.where(hard, 3.0, 1.0), torch.where(hard, 2.0, 1.0)], 1)
    noise = torch.rand(1000, 2, generator=torch.Generator().manual_seed(0)) * 0.1
    scores = torch.where(hard[:, None], 1.0, 0.0) + noise
    report = calibrate(losses, scores, (20, 50, 100), before=1, layers=4, target=0.5)
    assert report.share <= 0.5
    assert report.loss == pytest.approx(1.25)
    assert report.loss < report.fixed_loss < report.least_loss
    assert report.correlation > 0.9
    tight = calibrate(losses, scores, (20, 50, 100), before=1, layers=4, target=0.2)
    assert tight.share == pytest.approx(0.2)
    assert tight.loss == pytest.approx(float(losses[:, 0].mean()))


def test_losses_by_level_are_those_of_one_level_for_all(
    trained: tuple[Path, list[tuple[str, int]]], data: Path
) -> None:

    family = prepare(recipe(), data, trained[0])
    model = load_model(trained[0] / "model")
    assert isinstance(model, UnifiedDecoder)
    batch = family.batcher().batch(family.tasks({"intent": 1.0}, Manner(training=False)).examples(0, 4))
    losses, scores = level_losses(model, [batch])
    assert losses.shape == (int((batch.weights_T > 0).sum()), 3)
    assert scores.shape == (len(losses), 2)
    assert not torch.allclose(losses[:, 0], losses[:, 2])


def test_a_model_without_a_gate_has_one_level(data: Path, tmp_path: Path) -> None:
    shape = {**RECIPE["shape"], "widths": [], "adapter": 0, "routing": False}
    none = {sense: {**one, "steps": 0} for sense, one in RECIPE["pretrain"].items()}
    (trained,) = run_family(recipe(shape=shape, pretrain=none), data, tmp_path, watch=silent)
    assert trained.gate is None
    row = json.loads((tmp_path / "log-joint.jsonl").read_text().splitlines()[-1])
    assert row["validation_loss"] > 0
    model = load_model(tmp_path / "model")
    assert isinstance(model, UnifiedDecoder)
    assert model.unified.gate is None
