"""Pieces of text: whole characters, and stop strings, however the tokens are cut into pushes."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizer_files import FILES, SENTENCEPIECE, shipped

from ostro.tokenizer import Tokenizer
from ostro.tokenizer.detokenizer import Detokenizer
from ostro.tokenizer.stops import StopFinder

TEXT = st.text(st.sampled_from("ab .\n😀你é👩‍👧"), max_size=25)


def token_lists(tokenizer: Tokenizer) -> st.SearchStrategy[list[int]]:
    """Text, single bytes of characters, control tokens, ids beyond the vocabulary, and any token."""
    byte_ids = tokenizer.encode("😀\x00ÿ你\x01é", bos=False)
    first_byte = 1000 if tokenizer.vocab_size > 32768 else 3 if tokenizer.version == "v1" else 771
    chunk = st.one_of(
        TEXT.map(lambda text: tokenizer.encode(text, bos=False)),
        st.lists(st.sampled_from(byte_ids), max_size=3),
        st.lists(st.integers(first_byte, first_byte + 255), max_size=3),
        st.lists(st.integers(0, tokenizer.vocab_size + 5), max_size=4),
        st.sampled_from([[0], [1], [2], [3, 4]]),
    )
    return st.lists(chunk, max_size=5).map(lambda chunks: [token for part in chunks for token in part])


def cuts(data: st.DataObject, ids: list[int]) -> list[list[int]]:
    at = sorted(data.draw(st.lists(st.integers(0, len(ids)), max_size=6)))
    return [ids[low:high] for low, high in zip([0, *at], [*at, len(ids)], strict=True)]


@pytest.mark.parametrize("source", FILES)
@settings(max_examples=60)
@given(data=st.data())
def test_joined_pieces_are_the_decoded_whole(source: str, data: st.DataObject) -> None:
    tokenizer = shipped(source)
    ids = data.draw(token_lists(tokenizer))
    continuation = data.draw(st.booleans())
    detokenizer = Detokenizer(tokenizer, continuation=continuation)
    text = ""
    for part in cuts(data, ids):
        piece = detokenizer.push(part)
        assert not piece.stopped
        assert piece.consumed == len(part)
        text += piece.text
    assert text + detokenizer.finish() == tokenizer.decode(ids, continuation=continuation)


@pytest.mark.parametrize("source", FILES)
@settings(max_examples=120)
@given(data=st.data())
def test_stop_strings_end_the_text_where_a_search_of_the_whole_does(source: str, data: st.DataObject) -> None:
    tokenizer = shipped(source)
    ids = data.draw(token_lists(tokenizer))
    whole = tokenizer.decode(ids)
    pieces_of_whole = st.integers(0, max(len(whole) - 1, 0)).flatmap(
        lambda start: st.integers(1, 6).map(lambda length: whole[start : start + length])
    )
    stop = data.draw(st.lists((pieces_of_whole | TEXT).filter(bool), min_size=1, max_size=4))
    detokenizer = Detokenizer(tokenizer, stop)
    text, taken, stopped = "", 0, False
    for part in cuts(data, ids):
        piece = detokenizer.push(part)
        text += piece.text
        taken += piece.consumed
        assert piece.stopped or piece.consumed == len(part)
        assert not (stopped and (piece.text or piece.consumed or not piece.stopped))
        stopped = piece.stopped
    text += detokenizer.finish()
    expected = naive_cut(whole, stop)
    assert text == (whole if expected is None else whole[: expected[0]])
    assert taken == (naive_consumed(tokenizer, ids, expected[1]) if expected and stopped else len(ids))
    assert detokenizer.push([5]).text == "" or not stopped


def naive_cut(whole: str, stop: list[str]) -> tuple[int, int] | None:
    """Where the stop string that is complete first begins and ends; the longest of those that end together."""
    found = [(whole.find(text) + len(text), whole.find(text)) for text in stop if text in whole]
    if not found:
        return None
    end, start = min(found)
    return start, end


def naive_consumed(tokenizer: Tokenizer, ids: list[int], characters: int) -> int:
    """The fewest ids whose certain text, without the unfinished end, has that many characters."""
    for count in range(len(ids) + 1):
        detokenizer = Detokenizer(tokenizer)
        if len(detokenizer.push(ids[:count]).text) >= characters:
            return count
    raise AssertionError("the stop string is not in the text")


@settings(max_examples=300)
@given(
    text=st.text("ab", max_size=30),
    stop=st.lists(st.text("ab", min_size=1, max_size=6), min_size=1, max_size=4),
    size=st.integers(1, 5),
)
@example(text="aab", stop=["ab"], size=1)
@example(text="abc", stop=["abc", "b"], size=3)
@example(text="aabaaabaab", stop=["aabaab"], size=2)
def test_finder_is_a_search_of_the_whole(text: str, stop: list[str], size: int) -> None:
    finder = StopFinder(stop)
    seen = ""
    for start in range(0, len(text), size):
        seen += finder.feed(text[start : start + size])
        if not finder.stopped:
            held = text[len(seen) : start + size]
            assert held == "" or any(full.startswith(held) for full in stop)  # nothing is held back without need
    expected = naive_cut(text, stop)
    assert finder.stopped == (expected is not None)
    assert seen + finder.flush() == (text if expected is None else text[: expected[0]])


@pytest.mark.parametrize("source", FILES)
def test_characters_of_several_tokens_come_whole(source: str) -> None:
    tokenizer = shipped(source)
    ids = tokenizer.encode("𓀀𝔘🫠", bos=False)
    assert len(ids) > 3
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.push([token]).text for token in ids]
    assert "".join(pieces) == "𓀀𝔘🫠"
    assert "" in pieces
    assert detokenizer.finish() == ""


@pytest.mark.parametrize("source", FILES)
def test_an_unfinished_character_is_one_replacement(source: str) -> None:
    tokenizer = shipped(source)
    ids = tokenizer.encode("a𓀀", bos=False)[:-1]
    detokenizer = Detokenizer(tokenizer)
    assert detokenizer.push(ids).text == "a"
    assert detokenizer.finish() == "\ufffd"
    assert detokenizer.finish() == ""


@pytest.mark.parametrize("source", SENTENCEPIECE)
def test_leading_space_of_an_answer_and_of_a_continuation(source: str) -> None:
    tokenizer = shipped(source)
    ids = tokenizer.encode("the end", bos=False)
    assert "".join(Detokenizer(tokenizer).push([token]).text for token in ids[:1]) == "the"
    answer, completion = Detokenizer(tokenizer), Detokenizer(tokenizer, continuation=True)
    assert "".join(answer.push([token]).text for token in [1, *ids]) == "the end"
    assert "".join(completion.push([token]).text for token in ids) == " the end"


def test_usage_counts_up_to_the_stop() -> None:
    tokenizer = shipped("tekken_240911.json")
    ids = [*tokenizer.encode("one two", bos=False), 2, *tokenizer.encode("\n\nUser: more", bos=False)]
    detokenizer = Detokenizer(tokenizer, ["\n\nUser:"])
    piece = detokenizer.push(ids)
    assert (piece.text, piece.stopped) == ("one two", True)
    assert tokenizer.decode(ids[: piece.consumed]).endswith("\n\nUser:")
    assert not tokenizer.decode(ids[: piece.consumed - 1]).endswith("\n\nUser:")
    assert detokenizer.push(ids) == ("", True, 0)
    assert detokenizer.finish() == ""


def test_held_text_is_let_go_when_it_is_no_stop() -> None:
    tokenizer = shipped("tekken_240911.json")
    detokenizer = Detokenizer(tokenizer, ["END OF TEXT"])
    [end] = tokenizer.encode("END", bos=False)
    assert detokenizer.push([end]).text == ""
    assert detokenizer.push(tokenizer.encode(" well", bos=False)).text == "END well"
    assert detokenizer.push([end]).text == ""
    assert detokenizer.finish() == "END"


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one character"):
        Detokenizer(shipped("tokenizer.model.v1"), ["a", ""])


def test_a_push_does_not_grow_with_the_text() -> None:
    tokenizer = shipped("tokenizer.model.v1")
    ids = tokenizer.encode("aab " * 2000, bos=False)
    detokenizer = Detokenizer(tokenizer, ["aaab", "b" * 200])

    def seconds() -> float:
        start = time.process_time()
        for token in ids:
            detokenizer.push([token])
        return time.process_time() - start

    first = seconds()
    for _ in range(8):
        last = seconds()
    # 40 times as much would be spent by the last round if each push read the text again.
    assert last < 5 * first + 0.05
