"""`python -m ostro.core.grammar_compiler`: compiles grammars in a process that may be killed for taking too long.

It reads frames from stdin and answers on stdout: four bytes of length, big-endian, then UTF-8. A frame in is a
grammar; the frame out is empty, or says what is wrong with it. Only llguidance is imported.
"""

from __future__ import annotations

import resource
import struct
import sys
from typing import BinaryIO

MAX_MEMORY = 2 * 1024**3
# Mistral's control tokens are all below this id; grammars name them by number.
SPECIAL_TOKENS = 1100

LENGTH = struct.Struct(">I")


class Bytes:
    """A vocabulary of control tokens and single bytes: the grammar's own work shows, not a vocabulary's size."""

    bos_token_id = 1
    eos_token_id = 2
    special_token_ids = tuple(range(SPECIAL_TOKENS))
    tokens = (*(b"<|%d|>" % number for number in range(SPECIAL_TOKENS)), *(bytes([byte]) for byte in range(256)))

    def __call__(self, text: bytes) -> list[int]:
        return [SPECIAL_TOKENS + byte for byte in text]


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    import llguidance

    from ostro.core.grammar_limits import parser_limits

    tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(Bytes()))
    limits = parser_limits()
    while (grammar := _read(sys.stdin.buffer)) is not None:
        matcher = llguidance.LLMatcher(tokenizer, grammar.decode(), log_level=0, limits=limits)
        if not matcher.is_error():
            matcher.compute_bitmask()  # the first mask forces the lexer's work
        problem = matcher.get_error() if matcher.is_error() else ""
        answer = problem.encode()[:2000]
        sys.stdout.buffer.write(LENGTH.pack(len(answer)) + answer)
        sys.stdout.buffer.flush()


def _read(stream: BinaryIO) -> bytes | None:
    header = stream.read(LENGTH.size)
    if len(header) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(header)
    return stream.read(length)


if __name__ == "__main__":
    main()
