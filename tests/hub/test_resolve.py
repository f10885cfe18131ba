"""What `resolve_model` makes of a name."""

from __future__ import annotations

from pathlib import Path

import pytest

from ostro.core import paths
from ostro.core.errors import ModelNotFoundError
from ostro.weights.catalog import CATALOG, find_entry, is_repo_id
from ostro.weights.resolve import resolve_model


@pytest.fixture(autouse=True)
def _home(home: Path) -> None: ...


def test_a_folder_is_itself(tmp_path: Path) -> None:
    assert resolve_model(tmp_path) == tmp_path
    assert resolve_model(str(tmp_path)) == tmp_path


def test_an_embedded_model_goes_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ostro.weights.resolve.embedded_models", lambda: {"ostro-nano": tmp_path})
    assert resolve_model("ostro-nano") == tmp_path


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("mistral-nemo", "ostro pull mistral-nemo"),
        ("someone/something", "ostro pull someone/something"),
        ("mistral-nema", "Did you mean mistral-nemo"),
        ("./nowhere", "no folder nowhere"),
        ("/nowhere/at/all", "no folder /nowhere/at/all"),
    ],
)
def test_what_is_not_there_tells_what_to_do(name: str, told: str) -> None:
    with pytest.raises(ModelNotFoundError, match=told):
        resolve_model(name)


def test_a_file_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelNotFoundError, match="is a file"):
        resolve_model(tmp_path / "model.safetensors")


def test_every_short_name_leads_to_a_repository_of_the_maker() -> None:
    for name, entry in CATALOG.items():
        assert name == entry.name == name.lower()
        assert is_repo_id(entry.repo)
        assert entry.repo.startswith("mistralai/")
        assert find_entry(name.upper()) is entry
    assert find_entry("MISTRALAI/mistral-7b-v0.3").repo == "mistralai/Mistral-7B-v0.3"


def test_an_embedded_model_need_not_be_pulled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ostro.weights.catalog.embedded_models", lambda: {"ostro-nano": paths.ostro_home()})
    with pytest.raises(ModelNotFoundError, match="nothing to pull"):
        find_entry("ostro-nano")


@pytest.mark.parametrize("name", ["a", "a/b/c", "../b", "a/..", "a/.b", "a--b/c", "a/b c", "", "a/" + "b" * 300])
def test_what_is_no_repository(name: str) -> None:
    assert not is_repo_id(name)
