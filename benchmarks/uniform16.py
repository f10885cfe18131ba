"""16 equal requests at once, the case that suits the peer best: no padding, no early end."""

from __future__ import annotations

from benchmarks.peers import greedy, load_ours, load_peer, peer_generate, random_prompt
from benchmarks.report import arguments, interleave, report, timed

REQUESTS, PROMPT, NEW = 16, 64, 48


def main() -> None:
    args = arguments(__doc__)
    llm, peer = load_ours(args, prefix_caching=False), load_peer(args)
    prompts = [random_prompt(PROMPT, index) for index in range(REQUESTS)]

    def ours() -> float:
        return REQUESTS * NEW / timed(lambda: llm.generate(prompts, greedy(NEW), progress=False))

    def theirs() -> float:
        return REQUESTS * NEW / timed(lambda: peer_generate(peer, prompts, NEW))

    mine, other = interleave(args.rounds, ours, theirs)
    report(args, "uniform16", "tokens/s", mine, other, lower=False, peer_name="transformers generate, batch 16")


if __name__ == "__main__":
    main()
