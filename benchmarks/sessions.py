"""A conversation that grows by a turn: with the session's KV cache reused, and computed anew every time.

Reported: seconds for all turns, and the memory that the kept blocks take.
"""

from __future__ import annotations

from benchmarks.peers import greedy, load_ours, random_prompt
from benchmarks.report import arguments, interleave, report, timed
from ostro import LLM

TURNS, TURN, NEW = 6, 160, 8


def converse(llm: LLM) -> None:
    history: list[int] = []
    for turn in range(TURNS):
        history += random_prompt(TURN, turn)
        history += llm.generate([history], greedy(NEW), progress=False)[0].token_ids


def main() -> None:
    args = arguments(__doc__)
    reusing, anew = load_ours(args), load_ours(args, prefix_caching=False)

    def with_reuse() -> float:
        reusing.engine.clear_prefix_cache()
        return timed(lambda: converse(reusing))

    mine, other = interleave(args.rounds, with_reuse, lambda: timed(lambda: converse(anew)))
    layout = reusing.engine.runner.cache.layout
    kept = TURNS * (TURN + NEW) // layout.block_size
    report(
        args,
        "sessions",
        "s",
        mine,
        other,
        lower=True,
        turns=TURNS,
        tokens_per_turn=TURN + NEW,
        extra_memory_mib=round(kept * layout.block_bytes(reusing.engine.runner.cache.keys[0].dtype) / 2**20, 1),
        peer_name="the same engine without prefix reuse",
    )


if __name__ == "__main__":
    main()
