"""Money as whole micro-dollars: a millionth of a US dollar, so that sums are exact."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

import msgspec

from ostro.core.errors import ConfigError

MICROS = 1_000_000
_PER = 1_000_000
# More than anybody pays, and sums of it still fit the 64 bits of a database's integers.
_MOST = 10**12


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """call: micro-dollars a call. prompt, completion: micro-dollars for a million tokens.

    >>> Price(call=2000, prompt=150_000, completion=600_000).of(1000, 10)
    2156
    """

    call: int = 0
    prompt: int = 0
    completion: int = 0

    def of(self, prompt_tokens: int, completion_tokens: int) -> int:
        """What a call costs, in micro-dollars, a part of one counting whole."""
        tokens = prompt_tokens * self.prompt + completion_tokens * self.completion
        return self.call + -(-tokens // _PER)

    @property
    def is_free(self) -> bool:
        return not (self.call or self.prompt or self.completion)


def micros(usd: str | float | int | Decimal, param: str) -> int:
    """US dollars as people write them, in micro-dollars. Raises ConfigError for what is no price, naming `param`.

    >>> micros("0.002", "price"), micros(0.1, "price")
    (2000, 100000)
    """
    try:
        # By way of its text: 0.1 is meant, and not the number next to it that a computer has.
        exact = Decimal(str(usd).strip().removeprefix("$")) * MICROS
    except InvalidOperation:
        raise ConfigError(f"{param} must be US dollars such as 0.002, not {usd!r}.", param=param) from None
    if isinstance(usd, bool) or not exact.is_finite() or not 0 <= exact <= _MOST:
        raise ConfigError(f"{param} must be from 0 to {_MOST // MICROS} US dollars, not {usd!r}.", param=param)
    if exact != exact.to_integral_value():
        raise ConfigError(
            f"{param} is finer than a millionth of a US dollar, which is what is counted: {usd!r}.", param=param
        )
    return int(exact)


def usd(amount: int) -> str:
    """Micro-dollars as a decimal number of US dollars, with no more places than it needs, but two.

    >>> usd(2000), usd(1_500_000), usd(-20)
    ('0.002', '1.50', '-0.00002')
    """
    sign, rest = ("-" if amount < 0 else ""), abs(amount)
    places = f"{rest % MICROS:06d}".rstrip("0").ljust(2, "0")
    return f"{sign}{rest // MICROS}.{places}"
