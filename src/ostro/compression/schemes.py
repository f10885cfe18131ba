"""What people call the schemes: `int4`, `int4-g128`, `int8`, `int4-g64-shifted`."""

from __future__ import annotations

import re

from ostro.core.errors import ConfigError
from ostro.kernels.packed_linear.layout import Scheme

# Groups where a name says none: those of GGUF's Q4_0 for 4 bits, one a row for 8.
DEFAULT_GROUPS = {4: 32, 8: 0}
_NAME = re.compile(r"int(4|8)(?:-g(\d{1,6}))?(-shifted)?")


def scheme_of(name: str) -> Scheme:
    """A scheme by its name: int4 or int8, then `-gN` for groups of N inputs, then `-shifted` for groups with shifts.

    Raises ConfigError for another name, and for groups that nothing multiplies.

    >>> scheme_of("int4")
    Scheme(bits=4, group_size=32, shifted=False)
    >>> scheme_of("int8-g64-shifted")
    Scheme(bits=8, group_size=64, shifted=True)
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ConfigError(
            f"{name!r} names no scheme. Take int4 or int8, with groups of another size as in int4-g128, and with zero "
            "points as in int4-g64-shifted.",
            param="quantize",
        )
    bits = int(match[1])
    return Scheme(bits, DEFAULT_GROUPS[bits] if match[2] is None else int(match[2]), match[3] is not None)


def name_of(scheme: Scheme) -> str:
    """The shortest name of a scheme."""
    groups = "" if scheme.group_size == DEFAULT_GROUPS[scheme.bits] else f"-g{scheme.group_size}"
    return f"int{scheme.bits}{groups}{'-shifted' if scheme.shifted else ''}"
