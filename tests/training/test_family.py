"""A whole family run on tiny data: every stage, what it writes, and going on after a break."""

from __future__ import annotations

import copy
import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file
from sense_data import write_digits, write_photos

from ostro.cli.cards import filled_card
from ostro.core.errors import ConfigError, TrainingError
from ostro.core.sampling import SamplingParams
from ostro.engine.llm import LLM
from ostro.media.series import SeriesSettings
from ostro.models.ostro.encoder import StemEncoder
from ostro.models.ostro.model import UnifiedDecoder
from ostro.models.ostro.stems import StemConfig
from ostro.training import gate_texts
from ostro.training.checkpoint import under
from ostro.training.family import edge_of, initialise_unified, run_family
from ostro.training.family_recipe import EdgeRecipe, FamilyRecipe
from ostro.training.loop import Trainer, optimisers
from ostro.training.pairs import SignalPairs
from ostro.training.prepared import prepare
from ostro.training.pretrain import Pretrainer, PretrainRecipe, initialise_encoder
from ostro.training.recipe import OptimiserRecipe, convert
from ostro.training.senses.examples import Example
from ostro.training.senses.tasks import Manner, Tasks
from ostro.training.unified import UnifiedLoss, UnifiedObjective, align_groups, joint_groups
from ostro.weights.loader import load_model

STAGE: dict[str, Any] = {
    "optimiser": {
        "steps": 2,
        "rate": 0.003,
        "warmup": 1,
        "save_every": 1,
        "evaluate_every": 2,
        "precision": "bf16",
    },
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

COARSE = {**RECIPE["encoders"]["series"], "convolutions": [{"channels": 16, "kernel": 8, "stride": 8}]}
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
    """Sums depend on how many threads share them, and models that are loaded meanwhile set that. A tiny gate needs few
    tokens."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate_texts, "_FITTED_STEPS", 2)
        yield
    torch.set_num_threads(before)


def recipe(**changes: Any) -> FamilyRecipe:
    return msgspec.convert({**RECIPE, **changes}, FamilyRecipe)


def silent(*_: object) -> None: ...


@pytest.fixture(scope="module")
def drawn() -> list[list[str]]:
    """What the first steps of the stages of `trained` were asked, once that is there."""
    return []


@pytest.fixture(scope="module")
def trained(
    data: Path, tmp_path_factory: pytest.TempPathFactory, drawn: list[list[str]]
) -> tuple[Path, list[tuple[str, int]]]:
    out = tmp_path_factory.mktemp("run")
    seen: list[tuple[str, int]] = []
    draw = Tasks.examples

    def watched(self: Tasks, step: int, count: int) -> list[Example]:
        made = draw(self, step, count)
        if count == STAGE["objective"]["examples"] and step == 0:
            drawn.append([repr(one.messages) for one in made])
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tasks, "examples", watched)
        (one,) = run_family(recipe(), data, out, watch=lambda stage, step, *_: seen.append((stage, step)))
    assert one.gate is not None
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
    assert {"text", "labels", "contrast"} <= set(align)


def test_what_is_written_answers_with_every_sense(trained: tuple[Path, list[tuple[str, int]]], data: Path) -> None:
    import base64

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
    for name in ("photo_large", "photo_embedding", "digit_embedding", "series_embedding", "edge_photo_embedding"):
        assert 0 <= figures[name] <= 1
    assert figures["examples"] == 4
    assert figures["minutes"] > 0
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


def test_a_place_for_no_figure_is_named() -> None:
    assert filled_card("{photo:.0%}", {"photo": 0.5}) == "50%"
    with pytest.raises(ConfigError, match=r"'foto', which is none of the figures in figures\.json: photo"):
        filled_card("{foto:.0%}", {"photo": 0.5})


def test_who_answers_as_its_teacher_has_nothing_to_learn(
    trained: tuple[Path, list[tuple[str, int]]], data: Path
) -> None:
    """All of the target is the teacher's; so the loss is least where the student is its copy."""
    family = prepare(recipe(), data, trained[0])
    teacher = load_model(trained[0] / "model", dtype=torch.float32)
    assert isinstance(teacher, UnifiedDecoder)
    objective = msgspec.convert(
        {"examples": 12, "labels": 1.0, "contrast": 0.0, "whole": 1.0, "distil": 1.0}, UnifiedObjective
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


def test_a_teacher_whose_gate_was_fitted_anew_teaches_the_same(
    trained: tuple[Path, list[tuple[str, int]]], data: Path, tmp_path: Path
) -> None:
    """It is fitted whenever a run goes on; what was learnt from it would be refused then."""
    edge = msgspec.convert(EDGE, EdgeRecipe)
    family = prepare(recipe(edge=EDGE), data, tmp_path)

    def fingerprint(change: str) -> str:
        teacher = load_model(trained[0] / "model", dtype=torch.float32)
        assert isinstance(teacher, UnifiedDecoder)
        if change:
            teacher.get_parameter(change).add_(1.0)
        return edge_of(family, edge, teacher).fingerprint

    assert fingerprint("gate.score.weight") == fingerprint("")
    assert fingerprint("label_head.weight") != fingerprint("")


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


def with_edge(**changes: Any) -> FamilyRecipe:
    return recipe(edge={**EDGE, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoders": {**RECIPE["encoders"], "series": COARSE}}, "tokens of 8 elements"),
        ({"encoders": {"image": RECIPE["encoders"]["image"]}}, "must have the senses of tiny"),
        ({"pretrain": {}}, "no recipe for training image, audio, series"),
        ({"gate_target": 0.2}, "16 channels alone cost more than the 20% of 64"),
        ({"quantization": {"scheme": "int4"}}, "groups of 32 do not divide"),
        (
            {"quantization": {"scheme": "int8", "layers": [{"match": "*nothing*", "scheme": "dense"}]}},
            "used by no weight",
        ),
        ({"quantization": {"scheme": "int8", "scaling": "awq"}}, "no scales are folded"),
    ],
)
def test_what_a_smaller_model_cannot_be_is_told_before_anything_is_trained(
    data: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    trained: list[str] = []
    with pytest.raises(ConfigError, match=words):
        run_family(with_edge(**changes), data, tmp_path, watch=lambda stage, *_: trained.append(stage))
    assert trained == []


def test_what_only_a_recipe_of_text_reads_is_refused() -> None:
    """A step of a family is of so many examples."""
    align = {**STAGE, "optimiser": {**STAGE["optimiser"], "tokens": 3000}}
    with pytest.raises(ConfigError, match=r"unknown field `tokens` - at `\$\.align\.optimiser`"):
        convert({**RECIPE, "align": align}, FamilyRecipe, Path("tiny.yaml"))


class BrokenOffError(Exception):
    pass


@pytest.mark.parametrize("broken", [("image encoder", 1), ("align", 1), ("joint", 1)])
def test_a_run_that_was_broken_off_gives_the_same_weights(
    trained: tuple[Path, list[tuple[str, int]]], data: Path, tmp_path: Path, broken: tuple[str, int]
) -> None:
    def stop(stage: str, step: int, *_: object) -> None:
        if (stage, step) == broken:
            raise BrokenOffError

    with pytest.raises(BrokenOffError):
        run_family(recipe(), data, tmp_path, watch=stop)
    seen: list[tuple[str, int]] = []
    run_family(recipe(), data, tmp_path, watch=lambda stage, step, *_: seen.append((stage, step)))
    assert seen == trained[1][trained[1].index(broken) + 1 :], "nothing is done again"
    one, whole = (load_file(folder / "model" / "model.safetensors") for folder in (tmp_path, trained[0]))
    assert one.keys() == whole.keys()
    assert all(torch.equal(one[name], whole[name]) for name in whole)


def test_encoders_stand_still_while_the_decoder_learns_with_them(trained: tuple[Path, list[tuple[str, int]]]) -> None:
    out = trained[0]
    aligned, joint = (
        under("model.", load_file(next((out / f"state-{stage}").glob("*.safetensors")))) for stage in ("align", "joint")
    )
    for sense in ("image", "audio", "series"):
        kept = load_file(out / "encoders" / f"{sense}.safetensors")
        for name, value in kept.items():
            here = f"encoders.{sense}.{name}"
            assert torch.equal(aligned[here], value) != name.startswith("projector."), here
        assert any(not torch.equal(joint[f"encoders.{sense}.{name}"], value) for name, value in kept.items())


def test_encoders_have_a_rate_of_their_own_in_the_end(data: Path, tmp_path: Path) -> None:
    model = UnifiedDecoder(prepare(recipe(), data, tmp_path).config)
    groups = joint_groups(model, 0.1, 0.25)
    slow = {id(parameter) for group in groups if group.get("rate", 1.0) == 0.25 for parameter in group["params"]}
    assert slow == {id(parameter) for name, parameter in model.named_parameters() if name.startswith("encoders.")}
    every = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(every) == sorted(id(parameter) for parameter in model.parameters())
    made = optimisers(groups, msgspec.convert(STAGE["optimiser"], OptimiserRecipe))
    rates = {id(one): group["lr"] for group in made["optimiser"].param_groups for one in group["params"]}
    assert all(rate == pytest.approx(0.00075 if one in slow else 0.003) for one, rate in rates.items())
    assert len(rates) == len(every)


def test_no_stage_begins_with_the_examples_of_the_one_before(
    trained: tuple[Path, list[tuple[str, int]]], drawn: list[list[str]]
) -> None:
    """Which one recipe for both, and steps counted from nought in each, would make of it."""
    assert trained
    assert len(drawn) == 2, "one a stage"
    assert drawn[0] != drawn[1]


def test_other_data_are_another_run(data: Path, tmp_path: Path) -> None:
    before = prepare(recipe(), data, tmp_path / "run")
    changed = tmp_path / "data"
    for name in ("plays.txt", "photos.zip", "digits.zip", "questions.csv"):
        shutil.copytree(data, changed, dirs_exist_ok=True)
        if name.endswith(".zip"):
            with zipfile.ZipFile(changed / name, "a") as archive:
                archive.writestr("more.txt", "more")
        else:
            with (changed / name).open("a") as file:
                file.write("where is my card,card_lost\n")
        again = prepare(recipe(), changed, tmp_path / "run")
        assert again.fingerprint != before.fingerprint, name
        assert again.data != before.data
        shutil.rmtree(changed)
    assert prepare(recipe(), data, tmp_path / "run").fingerprint == before.fingerprint


def test_an_encoder_of_another_recipe_is_not_taken(data: Path, tmp_path: Path) -> None:
    class EnoughError(Exception):
        pass

    def stop(name: str, *_: object) -> None:
        if name == "align":
            raise EnoughError

    with pytest.raises(EnoughError):
        run_family(recipe(), data, tmp_path, watch=stop)
    pretrain = {**RECIPE["pretrain"], "series": {**RECIPE["pretrain"]["series"], "rate": 0.001}}
    with pytest.raises(TrainingError, match=r"series\.safetensors is an encoder of another recipe"):
        run_family(recipe(pretrain=pretrain), data, tmp_path, watch=stop)


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


def test_matrices_of_layers_take_steps_of_muon_where_it_has_a_rate(data: Path, tmp_path: Path) -> None:
    """Its step is orthogonal, so that no direction is left behind; all else goes on with AdamW."""
    family = prepare(recipe(), data, tmp_path)
    values = {**STAGE["optimiser"], "matrix_rate": 0.01, "matrix_decay": 0.0, "precision": "fp32"}
    optimiser = msgspec.convert(values, OptimiserRecipe)
    objective = msgspec.convert({"examples": 8, "contrast": 0.0}, UnifiedObjective)

    def trainer(folder: str) -> Trainer:
        model = UnifiedDecoder(family.config)
        initialise_unified(model, 3)
        loss = UnifiedLoss(
            objective, family.tasks(STAGE["tasks"], Manner(training=True)), None, family.batcher(asked=0.2)
        )
        groups = align_groups(model, 0.1)
        return Trainer(model, loss, optimiser, seed=1, folder=tmp_path / folder, fingerprint="", groups=groups)

    def train(one: Trainer, until: int) -> dict[str, torch.Tensor]:
        one.run(until=until, watch=silent, evaluate=lambda _: {})
        return {name: value.clone() for name, value in one.model.state_dict().items()}

    one = trainer("one")
    before = {name: value.clone() for name, value in one.model.state_dict().items()}
    after = train(one, 1)
    for name in ("layers.0.attention.qkv.weight", "layers.1.feed_forward.segments.0.down.weight"):
        step = after[name] - before[name]
        scale = 0.01 * max(1.0, step.shape[0] / step.shape[1]) ** 0.5
        found = torch.linalg.svdvals(step) / scale
        assert 0.7 < found.max() < 1.3, name
        assert (found / found.max()).square().sum() > len(found) / 3, "its directions are about as long as each other"
    embedding = after["embed.weight"] - before["embed.weight"]
    assert embedding.abs().max() < 1.1 * 0.003, "AdamW's first step is the rate in every element"

    whole = train(trainer("whole"), 2)
    train(trainer("broken"), 1)
    resumed = trainer("broken")
    assert resumed.resume()
    for name, value in train(resumed, 2).items():
        assert torch.equal(value, whole[name]), name
