"""Adapters are loaded under new names, sent whole, and never left behind."""

import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from asking import answer
from fake_server import FakeServer
from server_cases import config, tensors

from sglang_mezo_plugin.client import Job, Member, Refused, Sampling, Server, TimedOut
from sglang_mezo_plugin.errors import UserError

GREEDY = Sampling(max_new_tokens=4)
FROM_TENSORS = "/load_lora_adapter_from_tensors"


def says(fake: FakeServer, name: str | None) -> str:
    return answer(fake.url, Job("hi", GREEDY, name)).text


@pytest.mark.parametrize("tp_size", [1, 2])
def test_tensors_arrive_as_they_are(fake: FakeServer, connect: Callable[..., Server], tp_size: int) -> None:
    fake.info["tp_size"] = tp_size
    with connect() as server:
        first, second = server.load(tensors(1.5), config()), server.load(tensors(2.5), config())
        assert [says(fake, name) for name in (first, second, None)] == [
            "1.5 says hi", "2.5 says hi", "base says hi",
        ]  # fmt: skip
        server.unload(first)
        assert server.adapters() == [second]
        with pytest.raises(Refused, match=f"says 400: Failed to implicitly load LoRA adapter {first}: "):
            says(fake, first)
    assert fake.adapters == {}
    (sent, _) = fake.bodies(FROM_TENSORS)
    assert sent["config_dict"]["target_modules"] == ["q_proj", "v_proj"]
    assert len(sent["serialized_named_tensors"][0]) < 8000  # not the large tensor that A is a view of


def test_folders_are_read_by_the_server(
    fake: FakeServer, connect: Callable[..., Server], tmp_path: Path
) -> None:
    fake.missing_paths = {FROM_TENSORS}
    with connect() as server, pytest.raises(UserError, match=f"has no {FROM_TENSORS}: pass a folder"):
        server.load(tensors(1), config())
    with connect(adapter_folder=tmp_path) as server:
        assert says(fake, server.load(tensors(3), config())) == "3.0 says hi"
    assert list(tmp_path.iterdir()) == []


def test_names_are_never_used_twice(fake: FakeServer, connect: Callable[..., Server]) -> None:
    """Not even after a load whose answer was lost: the server may have what was sent first."""
    fake.faults[FROM_TENSORS] = ["reset", (503, "")]
    with connect() as one, connect() as other:
        names = [server.load(tensors(1), config()) for server in (one, one, other)]
    sent = [body["lora_name"] for body in fake.bodies(FROM_TENSORS)]
    assert len(set(sent)) == 5 and set(names) < set(sent)
    assert all(re.fullmatch(r"run-[0-9a-f]{8}-\d+", name) for name in sent)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, UserError])
def test_nothing_is_left_after_an_error(
    fake: FakeServer, connect: Callable[..., Server], error: type[BaseException]
) -> None:
    with pytest.raises(error), connect() as server:
        server.load(tensors(1), config())
        server.load(tensors(2), config())
        raise error
    assert fake.adapters == {}


@pytest.mark.parametrize(
    "handler", [signal.default_int_handler, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)]
)
def test_ctrl_c_gives_up_what_is_in_flight(
    fake: FakeServer, connect: Callable[..., Server], handler: Callable[..., None]
) -> None:
    """The server unloads no adapter that a completion uses. asyncio knows of the first handler only."""
    fake.faults["/generate"] = ["hang"] * 3
    before = signal.signal(signal.SIGINT, handler)

    def interrupt() -> None:
        while fake.in_flight < 3:
            time.sleep(0.01)
        signal.pthread_kill(main, signal.SIGINT)

    main = threading.main_thread().ident
    thread = threading.Thread(target=interrupt)
    try:
        with pytest.raises(KeyboardInterrupt), connect(timeout=30.0) as server:
            thread.start()
            member = Member(lambda: tensors(1), config(), [Job("hi", GREEDY)] * 3)
            server.evaluate_members([member], concurrency=3)
    finally:
        signal.signal(signal.SIGINT, before)
        thread.join()
    assert fake.adapters == {} and fake.given_up == 3


def test_a_load_that_was_not_answered_is_unloaded(fake: FakeServer, connect: Callable[..., Server]) -> None:
    fake.faults[FROM_TENSORS] = ["late"]
    with pytest.raises(TimedOut, match=r"did not answer within 0\.4 s"), connect(timeout=0.4) as server:
        server.load(tensors(1), config())
    assert fake.adapters == {} and len(fake.bodies("/unload_lora_adapter")) == 1


def test_unload_whose_answer_was_lost(fake: FakeServer, connect: Callable[..., Server]) -> None:
    with connect() as server:
        name = server.load(tensors(1), config())
        fake.adapters.clear()
        server.unload(name)
        name = server.load(tensors(1), config())
        refusal = {"success": False, "error_message": "rank 1 is stuck", "loaded_adapters": {}}
        fake.faults["/unload_lora_adapter"] = [(400, refusal)]
        with pytest.raises(Refused, match="says 400: rank 1 is stuck"):
            server.unload(name)
    assert fake.adapters == {}


def test_one_adapter_that_stays_keeps_no_other(fake: FakeServer, connect: Callable[..., Server]) -> None:
    stuck = (400, {"success": False, "error_message": "rank 1 is stuck", "loaded_adapters": {}})
    fake.faults["/unload_lora_adapter"] = [stuck]
    with pytest.raises(Refused, match="rank 1 is stuck"), connect() as server:
        names = [server.load(tensors(1), config()) for _ in range(3)]
    assert list(fake.adapters) == names[:1]
    fake.faults["/unload_lora_adapter"] = [stuck]
    with pytest.raises(RuntimeError, match="mine"), connect() as server:
        server.load(tensors(1), config())
        raise RuntimeError("mine")


def test_leftovers_of_a_killed_process_are_unloaded(fake: FakeServer, connect: Callable[..., Server]) -> None:
    mine = "run-0123abcd-7"
    strangers = ["run-7", "run-0123abcd-7x", "run.2-0123abcd-7", "my-run-0123abcd-7", "sql"]
    with connect() as server:
        kept = server.load(tensors(1), config())
        fake.adapters |= dict.fromkeys([mine, *strangers], 0.0)
        server.unload_leftovers()
        assert server.adapters() == [kept, *strangers]
    assert list(fake.adapters) == strangers
    with pytest.raises(ValueError, match="run must be of letters"), connect(run="run-2"):
        pass


def test_a_server_that_has_died_needs_no_unloading(fake: FakeServer, connect: Callable[..., Server]) -> None:
    with pytest.raises(RuntimeError, match="mine"), connect() as server:
        server.load(tensors(1), config())
        fake.stop()
        raise RuntimeError("mine")
    fake.start()
