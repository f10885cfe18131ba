"""`gateway.yaml`, read strictly: an unknown key is an error, because a limit that nobody reads limits nothing."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from ostro.core.errors import ConfigError
from ostro.core.media import SENSES
from ostro.core.money import Price, micros
from ostro.core.settings import convert, read_yaml
from ostro.storage.accounts import Limits

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")
_WHAT = "gateway's configuration"

Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)]
Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Seconds = Annotated[float, msgspec.Meta(gt=0.0, le=86_400.0)]


class _Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Keys that are not named here are refused."""


class PriceSettings(_Settings, frozen=True):
    """US dollars: for a call, and for a million tokens of a prompt and of an answer."""

    call: str | float = 0.0
    prompt_million: str | float = 0.0
    completion_million: str | float = 0.0

    def price(self, param: str) -> Price:
        """Raises ConfigError."""
        return Price(
            call=micros(self.call, f"{param}.call"),
            prompt=micros(self.prompt_million, f"{param}.prompt_million"),
            completion=micros(self.completion_million, f"{param}.completion_million"),
        )


class ModelSettings(_Settings, frozen=True):
    """What a node can do by a name. upstream: what the node calls it, where that differs. context, max_output: tokens
    of both together, and of an answer that asks for no number; tools: whether it calls functions."""

    name: str
    upstream: str | None = None
    modalities: list[str] = []
    context: Count | None = None
    max_output: Count = 1024
    tools: bool = True


class NodeSettings(_Settings, frozen=True):
    """An upstream. kind: "ostro", whose own signals are read, or any "openai"-compatible server, of which only is known
    what was sent to it. key_env: the variable of the environment with its key. device: "accelerator" or "cpu".
    capacity: requests at a time. cost: what it costs whoever runs the gateway."""

    name: str
    url: str
    models: list[ModelSettings]
    kind: Literal["ostro", "openai"] = "openai"
    key_env: str | None = None
    device: Literal["accelerator", "cpu"] = "cpu"
    region: str | None = None
    capacity: Count = 64
    cost: PriceSettings = PriceSettings()
    timeout_s: Seconds = 600.0


class TierSettings(_Settings, frozen=True):
    """What its keys pay, and may have where they have no limits of their own. priority: higher is served earlier, and
    below 0 goes to CPU nodes first while accelerators are busy."""

    price: PriceSettings = PriceSettings()
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    concurrency: Count | None = None
    priority: int = 0

    @property
    def limits(self) -> Limits:
        return Limits(
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
            concurrency=self.concurrency,
        )


class RoutingSettings(_Settings, frozen=True):
    """spill_above, spill_below: the load of accelerators at which low-priority requests go to CPU nodes, and that at
    which they come back. affinity: how much busier a node may be that has answered the same beginning before. retries:
    further nodes that are tried while nothing was streamed. breaker_failures: failures in a row after which a node is
    left alone for breaker_s. probe_s: between two real passes of one token. hedge_s: seconds after which a second node
    is asked too, where the first has not begun to answer; never by default, because it may double the work."""

    spill_above: Share = 0.8
    spill_below: Share = 0.7
    affinity: Share = 0.25
    retries: Annotated[int, msgspec.Meta(ge=0, le=10)] = 2
    breaker_failures: Count = 3
    breaker_s: Seconds = 10.0
    probe_s: Seconds = 1.0
    probe_timeout_s: Seconds = 5.0
    hedge_s: Seconds | None = None


class CacheSettings(_Settings, frozen=True):
    """Answers that are kept, for requests whose answers are always the same and those that ask for it. price: the share
    of a call's price that an answer from the cache costs."""

    enabled: bool = False
    ttl_s: Seconds = 3600.0
    max_bytes: Count = 64 * 1024 * 1024
    price: Share = 0.0


class GatewaySettings(_Settings, frozen=True):
    """The whole file. store: a file, or postgresql://user@host/name, which several gateways may share. name: of this
    gateway among them, the same in all its lives. max_body, max_answer: bytes of a request and of an answer.
    first_byte_s, gap_s: how long a node may be silent before its answer begins, and within it."""

    nodes: list[NodeSettings]
    tiers: dict[str, TierSettings]
    store: str = "gateway.db"
    name: str | None = None
    routing: RoutingSettings = RoutingSettings()
    cache: CacheSettings = CacheSettings()
    max_body: Count = 16 * 1024 * 1024
    max_answer: Count = 64 * 1024 * 1024
    first_byte_s: Seconds = 600.0
    gap_s: Seconds = 120.0


class Tier(msgspec.Struct, frozen=True):
    """A tier with its price in micro-dollars."""

    name: str
    price: Price
    limits: Limits
    priority: int


class GatewayConfig(msgspec.Struct, frozen=True):
    """The file, checked. keys: of nodes, by their names."""

    settings: GatewaySettings
    tiers: dict[str, Tier]
    costs: dict[str, Price]
    keys: dict[str, str]
    name: str
    store: str


def read_config(path: Path, environment: Mapping[str, str] | None = None, *, needs_keys: bool = True) -> GatewayConfig:
    """needs_keys: nodes' keys must be in the environment. Raises ConfigError that names the key of the file."""
    environment = os.environ if environment is None else environment
    settings = convert(read_yaml(path, _WHAT), GatewaySettings, path, _WHAT)
    try:
        return _checked(settings, path, environment if needs_keys else None)
    except ConfigError as error:
        raise ConfigError(f"The {_WHAT} {path}: {error.message}", param=error.param) from error


def _checked(settings: GatewaySettings, path: Path, environment: Mapping[str, str] | None) -> GatewayConfig:
    if not settings.nodes:
        raise ConfigError("nodes is empty: there is nobody to answer.", param="nodes")
    if not settings.tiers:
        raise ConfigError("tiers is empty: keys belong to tiers, such as research and commercial.", param="tiers")
    routing = settings.routing
    if routing.spill_below > routing.spill_above:
        raise ConfigError("routing.spill_below must not be above routing.spill_above.", param="routing.spill_below")
    names = [node.name for node in settings.nodes]
    keys = {}
    for index, node in enumerate(settings.nodes):
        param = f"nodes[{index}]"
        check_node(node, param)
        if names.count(node.name) > 1:
            raise ConfigError(f"{param}.name: there are two nodes named '{node.name}'.", param=f"{param}.name")
        if node.key_env is not None and environment is not None:
            key = environment.get(node.key_env)
            if not key:
                raise ConfigError(
                    f"{param}.key_env: the environment has no {node.key_env}. Set it to the node's key.",
                    param=f"{param}.key_env",
                )
            keys[node.name] = key
    for name in settings.tiers:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"tiers: {name!r} is no name for a tier.", param="tiers")
    return GatewayConfig(
        settings=settings,
        tiers={
            name: Tier(name, tier.price.price(f"tiers.{name}.price"), tier.limits, tier.priority)
            for name, tier in settings.tiers.items()
        },
        costs={node.name: node.cost.price(f"nodes[{i}].cost") for i, node in enumerate(settings.nodes)},
        keys=keys,
        name=settings.name or socket.gethostname(),
        store=_store(settings.store, path),
    )


def check_node(node: NodeSettings, param: str) -> None:
    """Raises ConfigError naming the key below `param`."""
    if not _NAME.fullmatch(node.name):
        raise ConfigError(f"{param}.name: {node.name!r} is no name for a node.", param=f"{param}.name")
    url = urlsplit(node.url)
    if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment:
        raise ConfigError(
            f"{param}.url must be a URL such as http://127.0.0.1:8000, not {node.url!r}.", param=f"{param}.url"
        )
    if url.username or url.password:
        raise ConfigError(f"{param}.url must not hold a password; name its variable in key_env.", param=f"{param}.url")
    if not node.models:
        raise ConfigError(f"{param}.models is empty.", param=f"{param}.models")
    names = [model.name for model in node.models]
    for index, model in enumerate(node.models):
        where = f"{param}.models[{index}]"
        if not _NAME.fullmatch(model.name) or names.count(model.name) > 1:
            raise ConfigError(f"{where}.name: {model.name!r} is no name, or there twice.", param=f"{where}.name")
        unknown = [one for one in model.modalities if one not in SENSES]
        if unknown:
            raise ConfigError(
                f"{where}.modalities: {unknown[0]!r} is none of {', '.join(SENSES)}.", param=f"{where}.modalities"
            )


def _store(given: str, path: Path) -> str:
    """A file is where the configuration is, wherever the gateway is started."""
    if "://" in given or given == ":memory:":
        return given
    return str((path.parent / Path(given).expanduser()).absolute())
