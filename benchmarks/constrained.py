"""16 answers at once, each held to a format of its own, against the same answers left free: what constraints cost.

The formats are mixed (JSON schemas, a regular expression, a grammar, any JSON) and none can end before the answer does,
so that both sides decode the same number of tokens. Grammars are compiled before the clock starts.
"""

from __future__ import annotations

from typing import Any

from benchmarks.http_cost import with_tokenizer
from benchmarks.peers import greedy
from benchmarks.report import arguments, cache_folder, interleave, report, timed
from benchmarks.shapes import make_checkpoint
from ostro import LLM, SamplingParams
from ostro.core import constraints

BATCH, NEW = 16, 64


def endless(item: dict[str, Any]) -> str:
    """A list too long to be finished."""
    return constraints.json_schema({"type": "array", "items": item, "minItems": 500})


def formats() -> list[str]:
    person = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 40},
            "age": {"type": "integer", "minimum": 0, "maximum": 130},
            "kind": {"enum": ["customer", "employee", "guest"]},
            "tags": {"type": "array", "items": {"type": "string"}},
            "address": {"type": "object", "properties": {"city": {"type": "string"}, "zip": {"pattern": "^[0-9]{5}$"}}},
        },
        "required": ["name", "age", "kind", "tags", "address"],
        "additionalProperties": False,
    }
    made = [
        endless(person),
        endless({"type": "object", "additionalProperties": {"type": "number"}, "minProperties": 3}),
        endless({"anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "null"}]}),
        constraints.json_schema({"type": "array", "items": {}, "minItems": 500}),
        constraints.regex(r"([A-Z][a-z]+ ){500,}"),
        constraints.regex(r"(\d{4}-\d{2}-\d{2}\n){500,}"),
        constraints.lark('start: pair{500,}\npair: KEY "=" VALUE "\\n"\nKEY: /[a-z_]{1,20}/\nVALUE: /[^\\n]{1,40}/'),
        endless(
            {"type": "object", "properties": {"q": {"type": "string", "pattern": "^[a-z ]{5,60}$"}}, "required": ["q"]}
        ),
    ]
    return [made[index % len(made)] for index in range(BATCH)]


def main() -> None:
    args = arguments(__doc__)
    folder = with_tokenizer(make_checkpoint(args.shape, cache_folder(args)))
    llm = LLM(folder, device="cpu", max_num_seqs=BATCH)
    prompts = [[1, *range(100 + index, 132 + index)] for index in range(BATCH)]
    free = [greedy(NEW)] * BATCH
    held = [SamplingParams(max_tokens=NEW, temperature=0.0, constraint=one) for one in formats()]

    def rate(params: list[SamplingParams]) -> float:
        made = 0

        def run() -> None:
            nonlocal made
            made = sum(len(output.token_ids) for output in llm.generate(prompts, params, progress=False))

        seconds = timed(run)
        assert made == BATCH * NEW, made
        return made / seconds

    ours, peer = interleave(args.rounds, lambda: rate(held), lambda: rate(free))
    report(
        args,
        "constrained",
        "tokens/s",
        ours,
        peer,
        lower=False,
        batch=BATCH,
        peer_name="the same engine, unconstrained",
    )


if __name__ == "__main__":
    main()
