"""One prompt of 512 tokens to its first token, against transformers."""

from __future__ import annotations

from benchmarks.peers import greedy, load_ours, load_peer, peer_generate, random_prompt
from benchmarks.report import arguments, interleave, report, timed

PROMPT = 512


def main() -> None:
    args = arguments(__doc__)
    llm, peer = load_ours(args, prefix_caching=False), load_peer(args)
    prompt = random_prompt(PROMPT, 0)

    def ours() -> float:
        return PROMPT / timed(lambda: llm.generate([prompt], greedy(1), progress=False))

    def theirs() -> float:
        return PROMPT / timed(lambda: peer_generate(peer, [prompt], 1))

    mine, other = interleave(args.rounds, ours, theirs)
    report(args, "prefill", "tokens/s", mine, other, lower=False, prompt=PROMPT, peer_name="transformers")


if __name__ == "__main__":
    main()
