"""The shipped model does what its card says, through the public faces."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import transformers

from ostro import LLM, SamplingParams
from ostro.core.paths import embedded_models

GREEDY = SamplingParams(temperature=0, max_tokens=32)

# In words of our own: none of these is taken from the data set.
QUESTIONS = {
    "When will my new card get here?": "card_arrival",
    "I think someone stole my card": "lost_or_stolen_card",
    "What exchange rate do you use?": "exchange_rate",
    "How old do I have to be to open an account with you?": "age_limit",
    "Which countries do you operate in?": "country_support",
    "I forgot my passcode": "passcode_forgotten",
    "How can I change my PIN?": "change_pin",
    "Please close my account": "terminate_account",
    "Why was my card payment declined in the shop?": "declined_card_payment",
    "My top up failed, why?": "top_up_failed",
    "Why was I charged for withdrawing cash?": "cash_withdrawal_charge",
    "How long does a transfer take?": "transfer_timing",
    "How do I verify my identity?": "verify_my_identity",
    "I have moved, how do I change my address?": "edit_personal_details",
    "Which cash machines can I use?": "atm_support",
    "My phone was stolen, what now?": "lost_or_stolen_phone",
    "Can I top up with Apple Pay?": "apple_pay_or_google_pay",
    "Somebody is using my card without my permission": "compromised_card",
    "I typed the wrong PIN too often and it is blocked now": "pin_blocked",
    "The cash machine swallowed my card!": "card_swallowed",
    "How do I get a disposable virtual card?": "get_disposable_virtual_card",
    "I do not recognise a direct debit on my account": "direct_debit_payment_not_recognised",
}

FOLLOW_UPS = ("Thanks!", "Sorry, can you repeat that?", "Are you sure?", "So what is it about?")


@pytest.fixture(scope="module")
def folder() -> Path:
    return embedded_models()["ostro-nano"]


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM("ostro-nano")


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_the_folder_is_small_and_has_no_pickle(folder: Path) -> None:
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 12_000_000
    names = {file.name for file in folder.iterdir()}
    assert names == {"config.json", "model.safetensors", "tekken.json", "README.md"}


def test_the_card_states_an_accuracy_of_at_least_eighty_per_cent(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    found = re.search(r"intent named exactly.*\| ([\d.]+)%", card)
    assert found
    assert float(found[1]) >= 80
    assert "CC BY 4.0" in card
    assert "does not do" in card


def test_it_names_intents_asked_in_other_words(llm: LLM) -> None:
    outputs = llm.chat([[user(question)] for question in QUESTIONS], GREEDY)
    right = [output.text == label for output, label in zip(outputs, QUESTIONS.values(), strict=True)]
    assert all(output.finish_reason == "stop" for output in outputs)
    assert sum(right) >= 17, [(o.text, q) for o, q, ok in zip(outputs, QUESTIONS, right, strict=True) if not ok]


@pytest.mark.parametrize("question", ["I am still waiting for my card", "How can I change my PIN?"])
def test_a_conversation_of_five_turns_keeps_its_intent(llm: LLM, question: str) -> None:
    messages = [user(question)]
    first = llm.chat(messages, GREEDY)[0].text
    assert first in ("card_arrival", "change_pin")
    for follow_up in FOLLOW_UPS:
        messages += [assistant(first), user(follow_up)]
        assert llm.chat(messages, GREEDY)[0].text == first
    assert sum(message["role"] == "user" for message in messages) == 5


def test_five_questions_in_one_conversation_are_named_each(llm: LLM) -> None:
    messages: list[dict[str, str]] = []
    right = 0
    for question, label in list(QUESTIONS.items())[:5]:
        messages.append(user(question))
        answer = llm.chat(messages, GREEDY)[0].text
        right += answer == label
        messages.append(assistant(answer))
    assert right >= 4


def test_a_system_prompt_does_no_harm(llm: LLM) -> None:
    system = {"role": "system", "content": "You are a helpful assistant."}
    assert llm.chat([system, user("The cash machine swallowed my card!")], GREEDY)[0].text == "card_swallowed"


def test_it_continues_text(llm: LLM) -> None:
    params = SamplingParams(temperature=0.8, seed=3, max_tokens=80)
    (output,) = llm.generate(["ROMEO:\nBut soft, what light"], params)
    words = re.findall(r"[A-Za-z]+", output.text)
    assert len(words) > 25
    common = {"the", "and", "to", "of", "i", "you", "my", "a", "that", "in", "is", "not", "with", "for", "it", "thou"}
    assert sum(word.lower() in common for word in words) > 4


def test_transformers_gives_the_same_answers_from_the_same_folder(folder: Path) -> None:
    """It is a checkpoint like any other."""
    llm = LLM("ostro-nano", dtype="float32")
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for output in llm.chat([[user(question)] for question in list(QUESTIONS)[:4]], GREEDY):
        ids = torch.tensor([output.prompt_token_ids])
        with torch.inference_mode():
            answer = reference.generate(ids, max_new_tokens=32, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
        assert answer.tolist() == [*output.token_ids, 2]
