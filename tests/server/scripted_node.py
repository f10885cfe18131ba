"""A node around scripted engines: `python scripted_node.py SETTINGS` serves on a free port and prints it.

models: `{name: {"version": of its tokenizer, "script": {"when": "say", …}, "options": {EngineOptions}}}`; what a
script may say is in scripted_engine.py. Everything else in the settings goes to `create_app`, `grace_s` to `serve`.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

from tokenizer_files import write_tekken

from ostro.core.options import EngineOptions
from ostro.link import EngineProcess, RestartPolicy
from ostro.server import ServedModel, create_app, serve
from ostro.tokenizer import load_tokenizer
from ostro.web.listening import bind

DEFAULT_VERSION = "v13"


def _served(folder: Path, name: str, model: dict[str, Any]) -> ServedModel:
    folder.mkdir()
    write_tekken(folder, model.get("version", DEFAULT_VERSION))
    (folder / "script.json").write_text(json.dumps(model["script"]))
    options = EngineOptions(model=str(folder), name=name, **model.get("options", {}))
    policy = RestartPolicy(first_pause_s=0.3, longest_pause_s=0.5, max_failures=3)
    engine = EngineProcess("scripted_engine", options, restart=policy)
    return ServedModel(name, engine, load_tokenizer(folder))


def main(settings: dict[str, Any]) -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    models = settings.pop("models")
    grace = settings.pop("grace_s", 5.0)
    with tempfile.TemporaryDirectory() as folder:
        served = {
            name: _served(Path(folder) / str(number), name, model)
            for number, (name, model) in enumerate(models.items())
        }
        app = create_app(served, loopback_only=True, **settings)
        listener = bind("127.0.0.1", 0)
        print(listener.getsockname()[1], flush=True)
        serve(app, listener, grace_s=grace)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
