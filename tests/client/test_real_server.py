"""A server of SGLang's on the CPU answers as PEFT does, and keeps no adapter."""

import multiprocessing
import re
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from asking import answer, answers
from real_server import RealServer
from served_models import PROMPTS, RANK, adapter, adapters, expected, jobs

from sglang_mezo_plugin.client import (
    Completion,
    Job,
    Refused,
    Sampling,
    Server,
    Unauthorized,
)
from sglang_mezo_plugin.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")
TOKENS = 12
SLOTS = 4


@pytest.mark.parametrize("by_folder", [False, True])
def test_twelve_members_answer_as_in_peft(
    real: RealServer, model: Path, tmp_path: Path, by_folder: bool
) -> None:
    members, asked = adapters(model, 3 * SLOTS), jobs(TOKENS)
    with real.connect(adapter_folder=tmp_path if by_folder else None) as server:
        assert server.free_slots() == SLOTS
        found = server.evaluate_members([member.member(asked) for member in members], concurrency=8)
        base = answers(real.url, asked, **real.keys)
        assert server.adapters() == []
    assert found == [expected(model, member.model, asked) for member in members]
    with members[0].model.disable_adapter():
        assert base == expected(model, members[0].model, asked)
    for same_job in zip(base, *found, strict=True):
        assert len(set(same_job)) == 1 + len(members)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("by_folder", [False, True])
def test_an_adapter_that_is_gone_is_refused(
    real: RealServer, model: Path, tmp_path: Path, by_folder: bool, prompt: object
) -> None:
    """Neither does the base model answer, nor an adapter of an older name."""
    one = adapters(model, 1)[0]
    with real.connect(adapter_folder=tmp_path if by_folder else None) as server:
        names = []
        for _ in range(2):
            names.append(server.load(one.tensors, one.config))
            assert server.adapters() == names[-1:]
            server.unload(names[-1])
        assert names[0] != names[1]
        for name, reason in [
            (names[0], f"Failed to implicitly load LoRA adapter {names[0]}: "),
            ("stranger", "Got LoRA adapter that has never been loaded: stranger All loaded adapters: "),
        ]:
            with pytest.raises(Refused, match=re.escape(f"says 400: {reason}")) as raised:
                answer(real.url, Job(prompt, Sampling(TOKENS), name), **real.keys)
            assert "\n" not in str(raised.value)
        server.unload("stranger")
        assert server.adapters() == []


@pytest.mark.parametrize(
    ("targets", "rank", "message"),
    [
        (["q_proj"], RANK, None),
        (["q_proj"], RANK + 1, f"takes adapters up to rank {RANK}, not {RANK + 1}: start it with {{}}"),
        (
            ["embed_tokens"],
            RANK,
            r"/load_lora_adapter_from_tensors says 400: LoRA adapter run-\w+-\d+ with rank 4 is incompatible "
            "with the current LoRA memory pool configuration.*: start the server with {}",
        ),
    ],
)
def test_flags_that_are_lacking(
    real: RealServer, model: Path, targets: list[str], rank: int, message: str | None
) -> None:
    one = adapter(model, 0, tuple(targets), rank)
    flags = f"--enable-lora --max-lora-rank {rank} --lora-target-modules {targets[0]} --max-loras-per-batch 6"
    with real.connect() as server:
        if message is None:
            server.check_lora(one.tensors, one.config, slots=6)
        else:
            with pytest.raises(UserError, match=message.format(flags) + "$"):
                server.check_lora(one.tensors, one.config, slots=6)
        assert server.adapters() == []


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"api_key": None}, r"/server_info says 401: Unauthorized: pass the key that .* as --api-key$"),
        ({"api_key": "admin"}, r"/server_info says 401: Unauthorized: pass the key .* as --api-key$"),
        ({"admin_api_key": None}, r"_from_tensors says 401: Unauthorized: .* as --admin-api-key, or if"),
        ({"admin_api_key": "wrong"}, r"_from_tensors says 401: Unauthorized: .* as --admin-api-key, or if"),
    ],
)
def test_wrong_keys(real: RealServer, model: Path, keys: dict[str, str | None], message: str) -> None:
    """The right ones are those of all other tests here."""
    one = adapters(model, 1)[0]
    with pytest.raises(Unauthorized, match=message) as raised, real.connect(**keys) as server:
        server.load(one.tensors, one.config)
    assert "\n" not in str(raised.value)


def test_seeds_are_not_heard_on_the_cpu(real: RealServer) -> None:
    """SGLang refuses --enable-deterministic-inference with the one attention backend that it has there."""
    asked = [Job("a film", Sampling(TOKENS, temperature=1.0, seed=5))] * 4
    ignored = "ignores the seeds of sampled completions: start it with --ena"
    with real.connect() as server, pytest.raises(UserError, match=ignored):
        server.capabilities.check_seeds()
    assert len({completion.text for completion in answers(real.url, asked, **real.keys)}) > 1


def load_and_ask(url: str, keys: dict[str, str | None], model: Path, names: Connection) -> None:
    with Server(url, run="run", **keys) as server:
        loaded = [server.load(one.tensors, one.config) for one in adapters(model, 2)]
        names.send(loaded)
        while True:
            answers(url, [Job("a film", Sampling(100), name) for name in loaded], **keys)


def test_leftovers_of_a_client_that_was_killed(real: RealServer, model: Path) -> None:
    """It was killed while the server was answering it."""
    parent, child = multiprocessing.Pipe()
    spawned = multiprocessing.get_context("spawn")
    killed = spawned.Process(target=load_and_ask, args=(real.url, real.keys, model, child), daemon=True)
    killed.start()
    left = parent.recv()
    killed.join(0.3)
    killed.kill()
    killed.join()
    one = adapters(model, 1)[0]
    with real.connect(run="other") as other, real.connect() as server:
        kept = other.load(one.tensors, one.config)
        own = server.load(one.tensors, one.config)
        assert set(server.adapters()) == {*left, kept, own}
        server.unload_leftovers()
        assert set(server.adapters()) == {kept, own}
        for name in (own, kept):
            job = Job("a film", Sampling(TOKENS), name)
            assert isinstance(answer(real.url, job, **real.keys), Completion)
    with real.connect() as server:
        assert server.adapters() == []
