"""Answers in the shape of `/v1/completions`, whole and streamed."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import UNSET

from ostro.core.request import Usage
from ostro.server.answering import Choice, Job, Shape
from ostro.server.generation import Piece
from ostro.server.logprobs import CompletionLogprobsWriter, TokenTexts, joined
from ostro.web.completions import Completion, CompletionChoice, CompletionLogprobs, CompletionRequest
from ostro.web.wire import UsageInfo


class CompletionShape:
    """prompts: their token ids. echoes: the text to put before each prompt's answers; empty for none.
    of: answers that the engine makes for each prompt, of which the best `n` are shown."""

    def __init__(
        self, job: Job, body: CompletionRequest, prompts: Sequence[list[int]], echoes: Sequence[str], *, of: int
    ) -> None:
        self.job = job
        self.body = body
        self.of = of
        self.n = body.n or 1
        self.prompts = prompts
        self.echoes = echoes
        texts = TokenTexts(job.model.tokenizer)
        self.writers = [CompletionLogprobsWriter(texts) for _ in range(len(prompts) * of)]

    def shape(self) -> Shape:
        return Shape(start=self.start, piece=self.piece, last=self.last, whole=self.whole)

    def start(self) -> Sequence[Completion]:
        """The echo opens the stream, unless its log-probabilities have to come with it."""
        if not self.echoes or self.body.logprobs is not None:
            return []
        return [
            self._body([CompletionChoice(index=index, text=self._echo(index))])
            for index in range(self.job.num_choices)
            if self._echo(index)
        ]

    def piece(self, piece: Piece) -> Completion:
        text, token_ids, logprobs = piece.text, piece.token_ids, self._logprobs(piece)
        if self.body.only_scores:
            text, token_ids = "", []
        if piece.prompt_logprobs is not None:
            text = self._echo(piece.index) + text
        choice = CompletionChoice(
            index=piece.index,
            text=text,
            logprobs=logprobs,
            finish_reason=piece.finish_reason,
            token_ids=token_ids if self.job.shows_token_ids else UNSET,
        )
        return self._body([choice])

    def last(self, usage: Usage) -> Completion:
        return self._body([], self._usage(usage))

    def whole(self, choices: Sequence[Choice], usage: Usage) -> Completion:
        return Completion(
            id=self.job.id,
            created=self.job.created,
            model=self.job.model.name,
            choices=[self._choice(index, choice) for index, choice in enumerate(self._best(choices))],
            usage=self._usage(usage),
        )

    def _best(self, choices: Sequence[Choice]) -> list[Choice]:
        """Of each prompt's answers the `n` with the highest log-probability per token, the best first."""
        if self.of == self.n:
            return list(choices)
        best: list[Choice] = []
        for start in range(0, len(choices), self.of):
            best += sorted(choices[start : start + self.of], key=_mean_logprob, reverse=True)[: self.n]
        return best

    def _choice(self, index: int, choice: Choice) -> CompletionChoice:
        text, token_ids = ("", []) if self.body.only_scores else (choice.text, choice.token_ids)
        return CompletionChoice(
            index=index,
            text=self._echo(index) + text,
            logprobs=self._logprobs(choice) if self.body.logprobs is not None else None,
            finish_reason=choice.finish_reason,
            token_ids=token_ids if self.job.shows_token_ids else UNSET,
        )

    def _logprobs(self, new: Piece | Choice) -> CompletionLogprobs | None:
        """Of the echoed prompt, where it comes with this, and of the answer's new tokens."""
        writer = self.writers[new.index]
        entries = None if self.body.only_scores else new.logprobs
        if new.prompt_logprobs is not None:
            first = writer.prompt(self.prompts[new.index // self.of], new.prompt_logprobs)
            return joined(first, writer.answer(entries))
        return writer.answer(entries)

    def _echo(self, index: int) -> str:
        return self.echoes[index // self.n] if self.echoes else ""

    def _usage(self, usage: Usage) -> UsageInfo:
        return UsageInfo.of(msgspec.structs.replace(usage, completion_tokens=0) if self.body.only_scores else usage)

    def _body(self, choices: list[CompletionChoice], usage: UsageInfo | None = None) -> Completion:
        return Completion(
            id=self.job.id,
            created=self.job.created,
            model=self.job.model.name,
            choices=choices,
            usage=usage if self.job.body.include_usage else UNSET,
        )


def _mean_logprob(choice: Choice) -> float:
    entries = choice.logprobs or []
    return sum(entry.logprob for entry in entries) / len(entries) if entries else 0.0
