"""What the documents say exists, exists: files behind links, targets of make, commands and their options."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main

from mistral_sdk.cli import build_app as build_published
from ostro.cli import build_app

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("recipes/**/*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"```\w*\n(.*?)```|`([^`\n]+)`", re.DOTALL)
COMMAND = re.compile(r"(?:^|&& |\$ )(ostro|mistral-cli|make|python -m)( +[^#\n&|;]*)?", re.MULTILINE)
REQUIRED = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/architecture.md", "docs/benchmarks.md")

documents = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


@pytest.mark.parametrize("name", REQUIRED)
def test_the_documents_are_there(name: str) -> None:
    assert (ROOT / name).is_file()


@documents
def test_relative_links_lead_somewhere(path: Path) -> None:
    for link in LINK.findall(path.read_text(encoding="utf-8")):
        target, _, anchor = link.partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        there = (path.parent / target) if target else path
        assert there.exists(), f"{path.name} links to {link}"
        if anchor:
            assert anchor in anchors(there), f"{path.name} links to {link}"


def anchors(path: Path) -> set[str]:
    heads = re.findall(r"^#+ +(.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@documents
def test_commands_exist_with_the_options_shown(path: Path) -> None:
    for program, words in commands_in(path.read_text(encoding="utf-8")):
        if program == "make":
            check_make(words)
        elif program == "python -m":
            check_module(words)
        else:
            check_command(program, words)


def commands_in(text: str) -> list[tuple[str, list[str]]]:
    code = [block or span for block, span in CODE.findall(text)]
    found = [match for part in code for match in COMMAND.findall(part.replace("\\\n", " "))]
    return [(program, rest.split()) for program, rest in found]


def check_make(words: list[str]) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for word in words:
        if re.fullmatch(r"[a-z]+", word):
            assert word in targets, f"make {word}"


def check_module(words: list[str]) -> None:
    module = words[0] if words else ""
    if module.startswith(("benchmarks.", "ostro")) and re.fullmatch(r"[a-z_.0-9]+", module):
        bases = [base / module.replace(".", "/") for base in (ROOT, ROOT / "src")]
        assert any(base.with_suffix(".py").is_file() or (base / "__main__.py").is_file() for base in bases), module


def check_command(program: str, words: list[str]) -> None:
    # `ostro serve|chat` and `ostro <command>` speak of commands rather than show one.
    if not words or not re.fullmatch(r"[a-z]+", words[0]):
        return
    options = commands_of(program)
    name = " ".join(words[:2]) if len(words) > 1 and " ".join(words[:2]) in options else words[0]
    assert name in options, f"{program} {name}"
    for word in words[1:]:
        if word.startswith("--"):
            assert word.split("=")[0] in options[name], f"{program} {name} {word}"


@cache
def commands_of(program: str) -> dict[str, set[str]]:
    app = build_app() if program == "ostro" else build_published()
    found: dict[str, set[str]] = {}
    groups: list[tuple[str, Any]] = [("", typer.main.get_command(app))]
    while groups:
        prefix, group = groups.pop()
        for name, command in group.commands.items():
            options = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
            found[prefix + name] = options | {"--help"}
            if hasattr(command, "commands"):
                groups.append((f"{prefix}{name} ", command))
    return found
