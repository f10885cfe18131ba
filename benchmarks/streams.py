"""128 concurrent streams: do all finish, how long to the first token and between tokens, p50 and p99.

The peer is our own engine with one request at a time: what sharing the machine costs and gains.
"""

from __future__ import annotations

import statistics
import time

from benchmarks.peers import greedy, load_ours, random_prompt
from benchmarks.report import arguments, report
from ostro import LLM
from ostro.core.expand import expand

STREAMS, PROMPT, NEW = 128, 48, 32


def percentiles(values: list[float]) -> tuple[float, float]:
    cuts = statistics.quantiles(values, n=100)
    return round(cuts[49], 4), round(cuts[98], 4)


def run(llm: LLM, count: int) -> tuple[float, list[float], list[float]]:
    """Tokens per second, times to first token, times between tokens (seconds); everything arrives at once."""
    for index in range(count):
        (one,) = expand(str(index), random_prompt(PROMPT, index), greedy(NEW), eos_ids=(), context=4096)
        llm.engine.add(one)
    started = time.perf_counter()
    last: dict[str, float] = {}
    first: list[float] = []
    between: list[float] = []
    tokens = finished = 0
    while llm.engine.has_work:
        events = llm.engine.step()
        now = time.perf_counter()
        for event in events:
            if event.request_id in last:
                between.append((now - last[event.request_id]) / max(1, len(event.token_ids)))
            else:
                first.append(now - started)
            last[event.request_id] = now
            tokens += len(event.token_ids)
            finished += event.finish_reason == "length"
    assert finished == count
    assert tokens == count * NEW
    return tokens / (time.perf_counter() - started), first, between


def main() -> None:
    args = arguments(__doc__)
    llm = load_ours(args, max_num_seqs=STREAMS, prefix_caching=False)
    run(llm, 4)
    alone, _, _ = run(llm, 1)
    together, first, between = run(llm, STREAMS)
    report(
        args,
        "streams",
        "tokens/s",
        together,
        alone,
        lower=False,
        streams=STREAMS,
        finished=STREAMS,
        first_token_p50_p99_s=percentiles(first),
        between_tokens_p50_p99_s=percentiles(between),
        peer_name="the same engine, one stream",
    )


if __name__ == "__main__":
    main()
