"""A prompt of 1,000 tokens, asked again: time to the first token the second time against the first."""

from __future__ import annotations

from benchmarks.peers import greedy, load_ours, random_prompt
from benchmarks.report import arguments, interleave, report, timed

PROMPT = 1000


def main() -> None:
    args = arguments(__doc__)
    llm = load_ours(args)
    prompt = random_prompt(PROMPT, 0)

    def ask() -> float:
        return timed(lambda: llm.generate([prompt], greedy(1), progress=False))

    def first_time() -> float:
        llm.engine.clear_prefix_cache()
        return ask()

    first, again = interleave(args.rounds, first_time, ask)
    report(args, "prefix", "s", again, first, lower=True, prompt=PROMPT, peer_name="the first time")


if __name__ == "__main__":
    main()
