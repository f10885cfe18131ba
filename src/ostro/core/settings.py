"""Settings files: YAML read strictly into types."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from ostro.core.errors import ConfigError

T = TypeVar("T")


def read_yaml(path: Path, what: str) -> object:
    """what: what the file is, for errors. Raises ConfigError."""
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"The {what} {path} is not UTF-8 text.") from error
    except OSError as error:
        raise ConfigError(f"The {what} {path} cannot be read: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"The {what} {path} is not YAML: {error}") from error


def convert(values: object, kind: type[T], path: Path, what: str) -> T:
    """Raises ConfigError naming the key that is missing, unknown or wrong."""
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"The {what} {path}: {error}.") from error
