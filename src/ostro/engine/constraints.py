"""Constrained sampling: which tokens may come next in each constrained row.

A matcher (llguidance's) follows one answer through its grammar. Matchers are compiled in a thread, off the step loop;
a GPU's masks are computed in a thread too, while the model runs: they depend on the tokens so far, not on the logits.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import llguidance
import numpy as np
import torch
from llguidance.numpy import fill_next_token_bitmask, fill_next_token_bitmask_par_with_draft_tokens

from ostro.core.errors import InvalidRequestError
from ostro.core.grammar_limits import one_line, parser_limits
from ostro.tokenizer.base import Tokenizer

KEPT = 256

# A character that no vocabulary merges with what is behind it.
_MARK = "\u263a"

LoadTokenizer = Callable[[], Tokenizer | None]


class _Vocabulary:
    """A tokenizer as llguidance asks for it."""

    def __init__(self, tokenizer: Tokenizer, eos_id: int) -> None:
        self._tokenizer = tokenizer
        ids = range(tokenizer.vocab_size)
        self.bos_token_id = tokenizer.bos_id
        self.eos_token_id = eos_id
        self.special_token_ids = [token for token in ids if tokenizer.is_special(token)]
        special = set(self.special_token_ids)
        # Names of control tokens are made up: only their ids mean something in our grammars.
        self.tokens = [b"<|%d|>" % token if token in special else tokenizer.token_bytes(token) for token in ids]
        self._single = {
            raw[0]: token for token, raw in enumerate(self.tokens) if len(raw) == 1 and token not in special
        }

    def __call__(self, text: bytes | str) -> list[int]:
        """Ids whose bytes are exactly the text's: llguidance takes them for what the text is.

        SentencePiece puts a space before a text that begins, so such a text is put behind a mark, which is cut off.
        """
        raw = text.encode() if isinstance(text, str) else bytes(text)
        plain = raw.decode("utf-8", "replace")
        ids = self._tokenizer.encode(plain, bos=False)
        if self._bytes_of(ids) == raw:
            return ids
        behind = self._tokenizer.encode(_MARK + plain, bos=False)
        for cut in range(1, len(behind) + 1):
            if self._bytes_of(behind[:cut]).lstrip(b" ") == _MARK.encode():
                if self._bytes_of(behind[cut:]) == raw:
                    return behind[cut:]
                break
        return [self._single[byte] for byte in raw if byte in self._single]

    def _bytes_of(self, ids: Sequence[int]) -> bytes:
        return b"".join(self.tokens[token] for token in ids)


class Grammars:
    """Compiled grammars of one model.

    load_tokenizer: called once, in a thread, when the first grammar comes. eos_ids: the model's own, beside the
    tokenizer's. kept: how many stay compiled, by latest use; enough that none is pushed out between its compilation
    and its start.
    """

    def __init__(
        self, load_tokenizer: LoadTokenizer, vocab_size: int, eos_ids: Collection[int] = (), kept: int = KEPT
    ) -> None:
        self._load_tokenizer = load_tokenizer
        self._kept = max(kept, KEPT)
        self._vocab_size = vocab_size
        self._eos_ids = set(eos_ids)
        self._tokenizer: llguidance.LLTokenizer | None = None
        self._limits = parser_limits()
        self._matchers: OrderedDict[str, llguidance.LLMatcher] = OrderedDict()
        self._lock = threading.Lock()  # of _matchers, which two threads use
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grammars")

    def compile(self, constraint: str) -> Future[None]:
        """Make the grammar ready. The future raises InvalidRequestError for one that cannot be."""
        if self._known(constraint) is None:
            return self._thread.submit(self._compile_once, constraint)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def matcher(self, constraint: str) -> llguidance.LLMatcher:
        """A matcher at the beginning of its grammar."""
        known = self._known(constraint)
        if known is None:  # pushed out by others since it was compiled, or compiled on another rank
            known = self._compile(constraint)
        return known.deep_copy()

    def _known(self, constraint: str) -> llguidance.LLMatcher | None:
        """What is compiled already, marked as used just now."""
        with self._lock:
            known = self._matchers.get(constraint)
            if known is not None:
                self._matchers.move_to_end(constraint)
            return known

    def _compile_once(self, constraint: str) -> None:
        """A request that came earlier may have had it compiled meanwhile."""
        if self._known(constraint) is None:
            self._compile(constraint)

    def _compile(self, constraint: str) -> llguidance.LLMatcher:
        if self._tokenizer is None:
            self._tokenizer = self._make_tokenizer()
        matcher = llguidance.LLMatcher(self._tokenizer, constraint, log_level=0, limits=self._limits)
        if matcher.is_error():
            raise InvalidRequestError(
                f"The answer's format cannot be compiled: {one_line(matcher.get_error())}",
                param="constraint",
                code="invalid_grammar",
            )
        with self._lock:
            self._matchers[constraint] = matcher
            while len(self._matchers) > self._kept:
                self._matchers.popitem(last=False)
        return matcher

    def _make_tokenizer(self) -> llguidance.LLTokenizer:
        tokenizer = self._load_tokenizer()
        if tokenizer is None:
            raise InvalidRequestError(
                "An answer can only be held to a format where the model has a tokenizer.", param="constraint"
            )
        eos_ids = sorted({*self._eos_ids, *tokenizer.eos_ids})
        if not eos_ids or tokenizer.vocab_size > self._vocab_size:
            raise InvalidRequestError(
                "This model's tokenizer does not fit it, so its answers cannot be held to a format.", param="constraint"
            )
        wrapper = llguidance.TokenizerWrapper(_Vocabulary(tokenizer, eos_ids[0]))
        eos = [token for token in eos_ids if token < tokenizer.vocab_size]
        return llguidance.LLTokenizer(wrapper, n_vocab=self._vocab_size, eos_token=eos)


@dataclass(frozen=True)
class MaskRow:
    """A constrained sequence of a batch: its matcher, the first of its rows of logits, and its drafts."""

    matcher: llguidance.LLMatcher
    row: int
    drafts: Sequence[int]


class MaskMaker:
    """Computes the masks of a batch: in a thread while the model runs, where the model runs elsewhere.

    on_cpu: the model has the processor's cores itself. A second thread would only make it wait, many times longer
    than the masks take, so they are computed when they are needed.
    """

    def __init__(self, vocab_size: int, *, on_cpu: bool) -> None:
        self._words = -(-vocab_size // 32)
        self._vocab_size = vocab_size
        self._executor = llguidance.LLExecutor(1)
        self._thread = None if on_cpu else ThreadPoolExecutor(1, thread_name_prefix="masks")
        self._bits = np.zeros((0, self._words), dtype=np.int32)

    def start(self, rows: Sequence[MaskRow]) -> Callable[[], torch.Tensor]:
        """Gives the rows' masks `[R, V]`, True where a token is forbidden; R counts a row and one more a draft."""
        if self._thread is None:
            return lambda: self._forbidden(rows)
        return self._thread.submit(self._forbidden, rows).result

    def _forbidden(self, rows: Sequence[MaskRow]) -> torch.Tensor:
        count = sum(1 + len(row.drafts) for row in rows)
        if len(self._bits) < count:
            self._bits = np.zeros((count, self._words), dtype=np.int32)
        bits = self._bits[:count]
        bits[:] = -1  # rows behind a draft that the grammar does not take stay free: they are not used
        drafted: list[tuple[llguidance.LLMatcher, int, list[int]]] = []
        at = 0
        for row in rows:
            if row.drafts:
                drafted.append((row.matcher, at, list(row.drafts)))
            else:
                fill_next_token_bitmask(row.matcher, bits, at)
            at += 1 + len(row.drafts)
        if drafted:
            fill_next_token_bitmask_par_with_draft_tokens(self._executor, drafted, bits)
        forbidden = np.unpackbits((~bits).view(np.uint8), axis=1, bitorder="little", count=self._vocab_size)
        return torch.from_numpy(forbidden.view(np.bool_))


def forbid(logits_RV: torch.Tensor, rows: Sequence[MaskRow], forbidden_MV: torch.Tensor) -> None:
    """Set forbidden tokens' logits to minus infinity, in place; neighbouring rows in one go."""
    forbidden_MV = forbidden_MV.to(logits_RV.device, non_blocking=True)
    begin = at = 0
    while at < len(forbidden_MV):
        first = end = rows[begin].row
        while begin < len(rows) and rows[begin].row == end:
            end += 1 + len(rows[begin].drafts)
            begin += 1
        logits_RV[first:end].masked_fill_(forbidden_MV[at : at + end - first], -torch.inf)
        at += end - first


def follow(matcher: llguidance.LLMatcher, tokens: Sequence[int]) -> tuple[int, str]:
    """Let a matcher take the tokens that were chosen, up to the end of its grammar.

    Gives how many belong to the answer, and what is wrong if one does not, else the empty string.
    """
    taken = 0
    for token in tokens:
        if matcher.is_stopped():  # at its end, or with an error that its mask ran into
            break
        if not matcher.consume_token(token):
            return taken, problem(matcher)
        taken += 1
    return taken, problem(matcher) if matcher.is_error() else ""


def problem(matcher: llguidance.LLMatcher) -> str:
    line = one_line(matcher.get_error())
    if "doesn't satisfy the grammar" in line:
        # Its masks never let such a token through: the request left none that they do.
        return (
            "The answer's format leaves no token that the request's other parameters allow (min_tokens, banned tokens "
            "or logit_bias)."
        )
    return f"The answer's format took more work than one may: {line}" if line else "The answer's format failed."
