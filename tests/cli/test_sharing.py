"""How several models are named on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from ostro.cli.sharing import parse_models, survey
from ostro.core.errors import CheckpointError
from ostro.core.options import EngineOptions


@pytest.mark.parametrize(
    ("first", "more", "served_name", "named"),
    [
        (None, [], None, {"ostro-nano": "ostro-nano"}),
        ("ostro-nano", [], "intents", {"intents": "ostro-nano"}),
        ("./models/tiny", [], None, {"tiny": "./models/tiny"}),
        (None, ["a=x", "y"], None, {"a": "x", "y": "y"}),
        ("x", ["b=/models/y"], None, {"x": "x", "b": "/models/y"}),
        (None, ["x"], "only", {"only": "x"}),
    ],
)
def test_names(first: str | None, more: list[str], served_name: str | None, named: dict[str, str]) -> None:
    found = parse_models(first, more, served_name)
    assert found == named
    assert list(found) == list(named)  # the first is the default


def test_a_folder_may_have_an_equals_sign_in_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "lr=3"
    folder.mkdir()
    assert parse_models(None, [str(folder)], None) == {"lr=3": str(folder)}


@pytest.mark.parametrize("more", [["a=x", "a=y"], ["=x"], ["a="], ["x", "x"]])
def test_names_that_cannot_be(more: list[str]) -> None:
    with pytest.raises(typer.BadParameter):
        parse_models(None, more, None)


def test_one_served_name_is_not_for_two_models() -> None:
    with pytest.raises(typer.BadParameter, match="--served-name"):
        parse_models("x", ["y"], "z")


def test_what_is_wrong_with_a_folder_comes_back_from_the_process_that_looked(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        survey([EngineOptions(model=str(tmp_path), name="empty")], None)
