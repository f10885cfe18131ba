"""The offline face, over a tiny random model and a real (tekken) tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tiny_checkpoints
from ostro import LLM, SamplingParams
from ostro.core.errors import InvalidRequestError, ModelNotFoundError, OstroError, PromptTooLongError, TokenizerError
from ostro.training.tokenizer import train_tekken, write_tekken

# The tiny checkpoints know 128 tokens; this one needs a vocabulary with bytes in it.
VOCABULARY = 320


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llm") / "model"
    torch.manual_seed(0)
    model = tiny_checkpoints._mistral(vocab_size=VOCABULARY).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.15)
    model.save_pretrained(path)
    texts = ["once upon a time there was a river", "the river was wide and the bridge was far"] * 5
    write_tekken(train_tekken(texts, vocab_size=VOCABULARY, num_special=40), path)
    return path


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    return LLM(folder, kv_memory=4_000_000, block_size=8)


def greedy(**changes: object) -> SamplingParams:
    return SamplingParams(**{"temperature": 0, "max_tokens": 12, "ignore_eos": True, **changes})  # type: ignore[arg-type]  # any options


def test_streams_and_batches_may_be_open_together(llm: LLM) -> None:
    """Each gets its own answer, whoever makes the steps, and ends."""
    prompts = [[5, 6, 7], [50, 60], [9] * 20]
    params = greedy(max_tokens=20)
    alone = [llm.generate([prompt], params)[0].text for prompt in prompts]
    first, second = llm.stream(prompts[0], params), llm.stream(prompts[1], params)
    pieces: dict[int, list[str]] = {0: [next(first)], 1: []}
    pieces[1].append(next(second))
    (vector_D,) = llm.embed([prompts[2]])
    assert vector_D.shape == (48,)
    assert [out.text for out in llm.generate(prompts, params)] == alone
    pieces[0] += first
    pieces[1] += second
    assert "".join(pieces[0]) == alone[0]
    assert "".join(pieces[1]) == alone[1]
    assert not llm.engine.has_work
    assert not llm._boxes


def test_a_stream_that_nobody_reads_on_leaves_nothing(llm: LLM) -> None:
    stream = llm.stream([5, 6, 7], greedy(max_tokens=20))
    next(stream)
    assert llm.engine.has_work
    stream.close()
    assert not llm.engine.has_work
    assert not llm._boxes


def test_texts_and_token_ids_mix_and_keep_their_order(llm: LLM) -> None:
    assert llm.tokenizer is not None
    ids = llm.tokenizer.encode("the river")
    outputs = llm.generate(["the river", ids, [1, 50, 60]], greedy(logprobs=5))
    assert outputs[0].token_ids == outputs[1].token_ids != outputs[2].token_ids
    assert outputs[0].text == outputs[1].text
    assert outputs[0].finish_reason == "length"
    assert len(outputs[0].token_ids) == 12
    assert outputs[0].logprobs is not None
    assert [len(item.top) for item in outputs[0].logprobs] == [5] * 12
    assert [item.token_id for item in outputs[0].logprobs] == outputs[0].token_ids
    assert outputs[0].usage.prompt_tokens == len(ids)
    assert outputs[0].usage.total_tokens == len(ids) + 12
    assert len(llm.generate("the river", greedy())) == len(llm.generate(ids, greedy())) == 1


def test_parameters_can_differ_by_prompt(llm: LLM) -> None:
    outputs = llm.generate([[5], [5]], [greedy(max_tokens=2), greedy(max_tokens=7)])
    assert [len(output.token_ids) for output in outputs] == [2, 7]
    with pytest.raises(InvalidRequestError, match="1 sampling parameters for 2 prompts"):
        llm.generate([[5], [5]], [greedy()])


def test_n_answers_differ_and_the_first_is_that_of_n_1(llm: LLM) -> None:
    sampled = {"temperature": 1.0, "seed": 5}
    (one,) = llm.generate([[5, 6]], greedy(**sampled))
    (three,) = llm.generate([[5, 6]], greedy(**sampled, n=3))
    assert [len(completion.token_ids) for completion in three.completions] == [12] * 3
    assert three.token_ids == one.token_ids
    assert len({tuple(completion.token_ids) for completion in three.completions}) == 3
    assert three.usage.completion_tokens == 36


def test_stop_strings_end_the_text_and_the_engines_work(llm: LLM) -> None:
    (plain,) = llm.generate(["the river"], greedy(max_tokens=30))
    at = len(plain.text) // 2
    stop = plain.text[at : at + 3]
    (stopped,) = llm.generate(["the river"], greedy(max_tokens=30, stop=[stop]))
    assert stopped.text == plain.text[: plain.text.index(stop)]
    assert stopped.finish_reason == "stop"
    assert len(stopped.token_ids) < 30
    assert not llm.engine.has_work
    assert llm.engine.stats().kv_usage == 0


def test_a_stream_is_the_same_text_and_can_be_left(llm: LLM) -> None:
    (whole,) = llm.generate(["the river"], greedy(max_tokens=30))
    assert "".join(llm.stream("the river", greedy(max_tokens=30))) == whole.text
    stream = llm.stream("the river", greedy(max_tokens=30))
    next(stream)
    stream.close()
    assert not llm.engine.has_work


def test_chat_takes_one_conversation_or_several(llm: LLM) -> None:
    one = [{"role": "user", "content": "the river"}]
    two = [{"role": "system", "content": "the bridge"}, *one]
    (alone,) = llm.chat(one, greedy())
    both = llm.chat([one, two], greedy())
    assert both[0].token_ids == alone.token_ids
    assert both[1].prompt_token_ids != both[0].prompt_token_ids
    assert "".join(llm.stream_chat(one, greedy())) == alone.text
    with pytest.raises(InvalidRequestError, match="messages"):
        llm.chat([])


def test_nothing_runs_if_one_prompt_is_wrong(llm: LLM) -> None:
    before = llm.engine.stats().prompt_tokens
    with pytest.raises(PromptTooLongError):
        llm.generate([[5], [5] * 600], greedy())
    with pytest.raises(InvalidRequestError, match="vocabulary"):
        llm.generate([[5], [VOCABULARY]], greedy())
    with pytest.raises(InvalidRequestError, match="empty"):
        llm.generate([[5], []], greedy())
    assert llm.engine.stats().prompt_tokens == before
    assert not llm.engine.has_work


def test_more_prompts_than_the_queue_holds(folder: Path) -> None:
    small = LLM(folder, kv_memory=4_000_000, max_waiting=2, max_num_seqs=2)
    outputs = small.generate([[5 + index] for index in range(9)], greedy(max_tokens=3))
    assert [len(output.token_ids) for output in outputs] == [3] * 9


def test_a_folder_without_tokenizer_takes_token_ids(tmp_path: Path) -> None:
    tiny = tiny_checkpoints.make("mistral-v0.3", tmp_path / "model")
    bare = LLM(tiny.folder, kv_memory=1_000_000)
    (output,) = bare.generate([[5, 6, 7]], greedy())
    assert output.text == ""
    assert len(output.token_ids) == 12
    with pytest.raises(TokenizerError, match="token ids"):
        bare.generate(["text"], greedy())
    with pytest.raises(TokenizerError, match="token ids"):
        bare.generate([[5]], greedy(stop=["x"]))


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_model_whose_numbers_are_none_gives_an_error_and_no_token(tmp_path: Path, temperature: float) -> None:
    torch.manual_seed(0)
    model = tiny_checkpoints._mistral().eval()
    model.save_pretrained(tmp_path)
    llm = LLM(tmp_path, kv_memory=4_000_000)
    params = greedy(temperature=temperature)
    assert llm.generate([[1, 2, 3]], params)[0].token_ids
    with torch.no_grad():
        llm.engine.runner.model.norm.weight[5] = torch.nan
    with pytest.raises(OstroError, match=r"output is not finite \(NaN or infinity\).*weights are damaged"):
        llm.generate([[1, 2, 3]], params)
    assert not llm.engine.has_work


def test_unknown_models_and_options() -> None:
    with pytest.raises(ModelNotFoundError, match="nothing-like-this"):
        LLM("nothing-like-this")
    with pytest.raises(ModelNotFoundError, match=r"file\.gguf"):
        LLM("file.gguf")


def test_progress_is_shown_where_it_is_asked_for(llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    llm.generate([[5]], greedy(), progress=False)
    assert capsys.readouterr() == ("", "")
