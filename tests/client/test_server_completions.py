"""What is asked, in either dialect, what is answered, and what each fault makes of it."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from asking import answer
from fake_server import MODEL, FakeServer
from server_cases import config, tensors

from sglang_mezo_plugin.client import (
    Completion,
    Job,
    Member,
    Refused,
    Sampling,
    Server,
    ServerError,
    TimedOut,
    Transient,
)

GREEDY = Sampling(max_new_tokens=4)
SAMPLED = Sampling(max_new_tokens=9, temperature=0.7, top_p=0.9, top_k=5, stop=("\n",), seed=2**40)
COMMON = {
    "top_p": 0.9,
    "top_k": 5,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "stop": ["\n"],
    "temperature": 0.7,
}
COMMON |= {"frequency_penalty": 0.0, "presence_penalty": 0.0}
CHAT = [{"role": "user", "content": "hi"}]
OVERLOADED = {
    "object": "error",
    "message": "The request queue is full.",
    "type": "503",
    "param": None,
    "code": 503,
}
TOO_LONG = {
    "error": {"message": "The input (9 tokens)\nis longer than the model's context length (4 tokens)."}
}


@pytest.mark.parametrize("prompt", ["hi", [3, 4], CHAT])
def test_dialects(fake: FakeServer, connect: Callable[..., Server], prompt: Any) -> None:
    """A model's name that SGLang does not know means the base: only lora_path reaches an adapter."""
    with connect() as server:
        name = server.load(tensors(2), config())
        found = answer(fake.url, Job(prompt, SAMPLED, name))
    path, sent = fake.seen[-3]  # before /v1/models and the unload
    if prompt is CHAT:
        assert found == Completion("2.0 says hi", "length", 7, 4)
        wanted = {
            "model": MODEL,
            "messages": CHAT,
            "max_tokens": 9,
            "seed": 2**40,
            "separate_reasoning": False,
        }
        assert (path, sent) == ("/v1/chat/completions", {**wanted, **COMMON, "lora_path": name})
    else:
        assert found == Completion(f"2.0 says {prompt}", "stop", 5, 3)
        params = {**COMMON, "max_new_tokens": 9, "sampling_seed": 2**40}
        key = "text" if prompt == "hi" else "input_ids"
        assert (path, sent) == ("/generate", {key: prompt, "sampling_params": params, "lora_path": name})


def member(count: int) -> Member:
    return Member(lambda: tensors(3), config(), [Job(f"{n}", GREEDY) for n in range(count)])


def test_outcomes_are_in_order_and_bounded(fake: FakeServer, connect: Callable[..., Server]) -> None:
    fake.delay = 0.02
    with connect() as server:
        (found,) = server.evaluate_members([member(40)], concurrency=7)
    assert [outcome.text for outcome in found] == [f"3.0 says {n}" for n in range(40)]
    assert fake.most_in_flight == 7


def test_a_job_that_fails_for_good_is_an_error_in_its_place(
    fake: FakeServer, connect: Callable[..., Server]
) -> None:
    fake.faults["/generate"] = [(400, TOO_LONG), "hang"]
    with connect(timeout=0.3) as server:
        (found,) = server.evaluate_members([member(4)], concurrency=1)
    assert [type(outcome) for outcome in found] == [Refused, TimedOut, Completion, Completion]
    where = re.escape(f"{fake.url}/generate")
    longer = "says 400: The input \\(9 tokens\\) is longer than the model's context length \\(4 tokens\\)."
    assert re.fullmatch(f"{where} {longer}", str(found[0]))
    assert re.fullmatch(
        f"{where} did not answer within 0.3 s: ask for fewer .*, or allow more time", str(found[1])
    )
    assert len(fake.bodies("/generate")) == 4  # neither is asked again


ABORTED = (
    200,
    {
        "text": "",
        "meta_info": {"finish_reason": {"type": "abort"}, "prompt_tokens": 1, "completion_tokens": 0},
    },
)


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ((503, OVERLOADED), Transient, "/generate still says 503: The request queue is full.: lower"),
        ((500, "Internal Server Error"), Transient, "still says 500: Internal Server Error: lower"),
        ((429, ""), Transient, "still says 429: no reason: lower"),
        ("reset", Transient, "/generate lost the connection (Server disconnected): see the server's log"),
        (ABORTED, Transient, "/generate aborts completions: see the server's log"),
    ],
)
def test_retries(fake: FakeServer, fault: Any, error: type[ServerError], message: str) -> None:
    """Twice is met with patience; a third time is for good."""
    fake.faults["/generate"] = [fault] * 5
    with pytest.raises(error, match=re.escape(message)) as raised:
        answer(fake.url, Job("hi", GREEDY))
    assert answer(fake.url, Job("hi", GREEDY)).text == "base says hi"
    assert len(fake.bodies("/generate")) == 6
    assert "\n" not in str(raised.value) and fake.url in str(raised.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"text": "half', 'does not answer in JSON ({"text": "half): correct --server'),
        ("<html>" + "x" * 999, "does not answer in JSON (<html>" + "x" * 294 + "...): correct --server"),
        ("[]", "answers something else than a completion (TypeError list indices"),
        ('{"text": "hi"}', "answers something else than a completion (KeyError 'meta_info')"),
    ],
)
def test_malformed_answers(fake: FakeServer, body: str, message: str) -> None:
    fake.faults["/generate"] = [(200, body)]
    with pytest.raises(Refused, match=re.escape(f"{fake.url}/generate {message}")):
        answer(fake.url, Job("hi", GREEDY))
