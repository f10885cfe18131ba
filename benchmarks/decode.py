"""Batch-1 greedy decoding against transformers: tokens per second after the first token."""

from __future__ import annotations

from benchmarks.peers import greedy, load_ours, load_peer, peer_generate, random_prompt
from benchmarks.report import arguments, interleave, report, timed

PROMPT, NEW = 32, 64


def main() -> None:
    args = arguments(__doc__)
    llm, peer = load_ours(args, prefix_caching=False), load_peer(args)
    prompt = random_prompt(PROMPT, 0)

    def rate(run_all: float, run_first: float) -> float:
        return (NEW - 1) / (run_all - run_first)

    def ours() -> float:
        first = timed(lambda: llm.generate([prompt], greedy(1), progress=False))
        return rate(timed(lambda: llm.generate([prompt], greedy(NEW), progress=False)), first)

    def theirs() -> float:
        first = timed(lambda: peer_generate(peer, [prompt], 1))
        return rate(timed(lambda: peer_generate(peer, [prompt], NEW)), first)

    mine, other = interleave(args.rounds, ours, theirs)
    report(
        args, "decode", "tokens/s", mine, other, lower=False, prompt=PROMPT, new_tokens=NEW, peer_name="transformers"
    )


if __name__ == "__main__":
    main()
