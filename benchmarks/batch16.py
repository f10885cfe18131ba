"""16 requests of different lengths that arrive one after the other, against transformers' batch-16 `generate`.

Ours takes each request when it arrives. The peer can only start a batch when all of it is there, pads prompts to the
longest and runs until the longest answer is done; it is given all requests at once, so that waiting for them is not
counted against it. Useful tokens per second, from the first arrival to the last token.
"""

from __future__ import annotations

import time

from benchmarks.peers import greedy, load_ours, load_peer, peer_generate, random_prompt
from benchmarks.report import arguments, interleave, report, timed
from ostro.core.expand import expand
from ostro.core.request import EngineRequest

REQUESTS = 16
PROMPTS = [16 + 12 * index for index in range(REQUESTS)]
NEW = [96 if index % 4 == 0 else 16 + 4 * index for index in range(REQUESTS)]
# Seconds between arrivals: short against an answer, so that the batch fills.
GAP = 0.01


def main() -> None:
    args = arguments(__doc__)
    llm, peer = load_ours(args, prefix_caching=False), load_peer(args)
    prompts = [random_prompt(length, index) for index, length in enumerate(PROMPTS)]
    useful = sum(NEW)

    def requests() -> list[EngineRequest]:
        pairs = zip(prompts, NEW, strict=True)
        return [
            expand(str(index), prompt, greedy(new), eos_ids=(), context=4096)[0]
            for index, (prompt, new) in enumerate(pairs)
        ]

    def ours() -> float:
        waiting, tokens = requests(), 0
        started = time.perf_counter()
        sent = 0
        while sent < REQUESTS or llm.engine.has_work:
            while sent < REQUESTS and time.perf_counter() - started >= sent * GAP:
                llm.engine.add(waiting[sent])
                sent += 1
            tokens += sum(len(event.token_ids) for event in llm.engine.step())
        assert tokens == useful
        return useful / (time.perf_counter() - started)

    def theirs() -> float:
        return useful / timed(lambda: peer_generate(peer, prompts, max(NEW)))

    mine, other = interleave(args.rounds, ours, theirs)
    report(
        args,
        "batch16",
        "useful tokens/s",
        mine,
        other,
        lower=False,
        prompts=f"{min(PROMPTS)}-{max(PROMPTS)}",
        new_tokens=f"{min(NEW)}-{max(NEW)}",
        peer_name="transformers generate, batch 16",
    )


if __name__ == "__main__":
    main()
