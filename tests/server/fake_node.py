"""A whole node around the fake engine: `python fake_node.py '{"api_key": …}'` serves on a free port and prints it.

models: `{name: {EngineOptions, "footprint": {…}}}` serves several, as `pool` (PoolOptions) says. Everything else in the
settings goes to `create_app` and `serve`. site: port of a host "site" on loopback that images may be fetched from.
"""

from __future__ import annotations

import json
import logging
import sys
from functools import partial
from typing import Any

import ostro.server.app as application
from ostro.core.footprint import Footprint
from ostro.core.media import Prompt
from ostro.core.options import EngineOptions
from ostro.link import EngineProcess, RestartPolicy
from ostro.media.image import ImageSettings
from ostro.media.senses import Senses
from ostro.server import ServedModel, create_app, serve
from ostro.server.pool import PoolOptions
from ostro.tokenizer.base import Tokenizer
from ostro.tokenizer.conversation import read_messages
from ostro.web.fetching import MediaFetcher
from ostro.web.listening import bind

BOS, EOS = 256, 257


class ByteTokenizer(Tokenizer):
    """One token a byte, and two special ones. A conversation is its contents, joined."""

    vocab_size = 258
    bos_id = BOS
    eos_ids = (EOS,)
    version = "bytes"

    def is_special(self, token_id: int) -> bool:
        return token_id >= 256

    def render(self, messages: list[dict[str, Any]], *, continue_final: bool = False, **_: Any) -> Prompt:
        turns = read_messages(messages, continue_final=continue_final)
        return Prompt(self.encode("|".join("".join(turn.texts) for turn in turns)))

    def _encode_text(self, text: str) -> list[int]:
        return list(text.encode())

    def _look_up_bytes(self, token_id: int) -> bytes:
        return bytes([token_id]) if token_id < 256 else b"<s>"


async def _loopback(_: str) -> list[str]:
    return ["127.0.0.1"]


def main(settings: dict[str, Any]) -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    only = {"model": settings.pop("model", "m"), **settings.pop("options", {})}
    models = settings.pop("models", {"fake": only})
    footprints = {name: Footprint(**model.pop("footprint")) for name, model in models.items() if "footprint" in model}
    policy = RestartPolicy(first_pause_s=0.3, longest_pause_s=0.5, max_failures=3)
    tokenizer: Any = ByteTokenizer() if settings.pop("tokenizer", True) else None
    engines = {
        name: EngineProcess("fake_engine", EngineOptions(name=name, **model), restart=policy)
        for name, model in models.items()
    }
    senses = Senses()
    if (site := settings.pop("site", None)) is not None:
        senses = Senses(image=ImageSettings(token_side=28, max_side=280))
        application.MediaFetcher = partial(MediaFetcher, resolve=_loopback, admits=lambda address: address.is_loopback)
        settings["media_from"] = [f"site:{site}"]
    served = {name: ServedModel(name, engine, tokenizer, senses) for name, engine in engines.items()}
    if "pool" in settings:
        settings["pool"] = PoolOptions(footprints=footprints, **settings["pool"])
    grace = settings.pop("grace_s", 5.0)
    headers_s = settings.pop("headers_s", 30.0)
    app = create_app(served, loopback_only=True, **settings)
    listener = bind("127.0.0.1", 0)
    print(listener.getsockname()[1], flush=True)
    serve(app, listener, grace_s=grace, headers_s=headers_s)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
