"""Personal data that has a form: cards and accounts by their checksums, mail and phone by their shape.

Names, addresses and all else that has none are not found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

CARD, ACCOUNT, SOCIAL_SECURITY, MAIL, PHONE = 0.95, 0.95, 0.9, 0.8, 0.7

# Digits of issuers (ISO/IEC 7812), alone or in groups; more than one separator in a row is another thing.
_CARD = re.compile(r"(?<![\w.,-])[2-6](?:[ -]?\d){12,18}(?![\w-]|[.,]\d)")
_ISSUERS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})"  # Visa
    r"|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}"  # Mastercard
    r"|3[47]\d{13}"  # American Express
    r"|3(?:0[0-5]|[68]\d)\d{11}"  # Diners Club
    r"|(?:6011|65\d\d|64[4-9]\d)\d{12}"  # Discover
    r"|35(?:2[89]|[3-8]\d)\d{12}"  # JCB
)
# ISO 13616: country, two check digits, up to 30 letters and digits, printed in groups of four.
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?!\w)")
_IBAN_LENGTHS = range(15, 35)
# Numbers that were never given out do not count (area 000, 666 and 9xx; group 00; serial 0000).
_SOCIAL_SECURITY = re.compile(r"(?<![\w-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])")
_MAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@((?:[\w-]{1,63}\.){1,4}[^\W\d_]{2,24})(?![\w-])")
# RFC 2606 sets these aside for examples; nobody reads mail there.
_NOBODY = re.compile(r"(?:^|\.)(?:example\.(?:com|net|org)|example|test|invalid|localhost)$")
_PHONE = re.compile(
    r"(?<![\w.+-])(?:"
    r"\+[1-9](?:[ .()-]{0,2}\d){7,14}"  # international
    r"|\(\d{3}\) ?\d{3}-\d{4}|\d{3}[-.]\d{3}[-.]\d{4}"  # North America
    r"|0[1-9](?:[ .]\d\d){4}"  # France
    r")(?![\w-]|\.\d)"
)
_PHONE_DIGITS = range(8, 16)


def found(text: str) -> Iterator[tuple[str, float]]:
    """Kinds of personal data in a text, each with how sure its form makes it, in [0, 1]."""
    if any(is_card(match.group()) for match in _CARD.finditer(text)):
        yield "card", CARD
    if any(is_iban(match.group()) for match in _IBAN.finditer(text)):
        yield "account", ACCOUNT
    if _SOCIAL_SECURITY.search(text):
        yield "social_security", SOCIAL_SECURITY
    if any(not _NOBODY.search(match.group(1).lower()) for match in _MAIL.finditer(text)):
        yield "mail", MAIL
    if any(_digits(match.group()) in _PHONE_DIGITS for match in _PHONE.finditer(text)):
        yield "phone", PHONE


def is_card(text: str) -> bool:
    """Whether digits are a payment card's: an issuer's prefix and length, and Luhn's checksum (ISO/IEC 7812-1).

    >>> is_card("4111 1111 1111 1111"), is_card("4111 1111 1111 1112")
    (True, False)
    """
    digits = re.sub(r"[ -]", "", text)
    return bool(_ISSUERS.fullmatch(digits)) and _luhn(digits) and len(set(digits)) > 1


def is_iban(text: str) -> bool:
    """Whether a text is an account number by ISO 13616: 1 modulo 97, read with its first four characters last.

    >>> is_iban("GB82 WEST 1234 5698 7654 32"), is_iban("GB82 WEST 1234 5698 7654 33")
    (True, False)
    """
    compact = text.replace(" ", "")
    if len(compact) not in _IBAN_LENGTHS:
        return False
    return int("".join(str(int(character, 36)) for character in compact[4:] + compact[:4])) % 97 == 1


def _luhn(digits: str) -> bool:
    doubled = [int(digit) * (1 + index % 2) for index, digit in enumerate(reversed(digits))]
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0


def _digits(text: str) -> int:
    return sum(character.isdecimal() for character in text)
