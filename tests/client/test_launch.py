"""A launched server ends with all of its processes, whatever ends first, and says why it did not start."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stub_server import ASKED_TO_END, SILENT, STARTING, STUBBORN, TRACEBACK

from sglang_mezo_plugin.client import launch
from sglang_mezo_plugin.client.launch import LaunchedServer, cpu_words, lora_words
from sglang_mezo_plugin.errors import UserError

# Launches a server, tells its process group, and waits to be killed.
PARENT = """
import sys, time
from pathlib import Path
from sglang_mezo_plugin.client import launch
launch.GUARD = launch.GUARD.replace("sleep 30", "sleep 0.5")
class Telling(launch.LaunchedServer):
    def _wait(self):
        print(self.pid, flush=True)
        super()._wait()
with Telling(sys.argv[2:], Path(sys.argv[1])):
    print("up", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a stub in SGLang's place; returns a file for its log."""
    package = tmp_path / "stub" / "sglang"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    shutil.copy(Path(__file__).with_name("stub_server.py"), package / "launch_server.py")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.setattr(launch, "STOP_SECONDS", 0.5)
    return tmp_path / "server.log"


def living(group: int) -> list[int]:
    """Return the processes of a group, but for those that are dead and that nobody has waited for."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = stat.read_text().rpartition(") ")[2].split()[:3]
        except OSError:  # it has ended meanwhile
            continue
        if int(its_group) == group and state != "Z":
            found.append(int(stat.parent.name))
    return found


def ends(group: int) -> bool:
    end = time.monotonic() + 10
    while living(group) and time.monotonic() < end:
        time.sleep(0.02)
    return not living(group)


@pytest.mark.parametrize("words", [[], [STUBBORN]])
@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_all_processes_end(stub: Path, words: list[str], error: type[BaseException] | None) -> None:
    def use() -> None:
        with server:
            assert len(living(server.pid)) == 2 and os.getsid(server.pid) == server.pid
            if error is not None:
                raise error

    server = LaunchedServer(words, stub)
    if error is None:
        use()
    else:
        with pytest.raises(error):
            use()
    assert ends(server.pid) and ASKED_TO_END in stub.read_text()


def test_a_server_that_was_killed_starts_again(stub: Path) -> None:
    with LaunchedServer([], stub) as server:
        first = server.pid
        os.killpg(first, signal.SIGKILL)
        server.stop()
        server.start()
        assert server.pid != first and len(living(server.pid)) == 2
    assert ends(first) and ends(server.pid)


@pytest.mark.parametrize(
    ("words", "number"),
    [([], signal.SIGKILL), ([], signal.SIGTERM), ([STUBBORN], signal.SIGKILL), ([STARTING], signal.SIGKILL)],
)
def test_no_orphans_of_a_process_that_is_killed(stub: Path, words: list[str], number: int) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, stub, *words], stdout=subprocess.PIPE, text=True)
    group = int(parent.stdout.readline())
    if words == [STARTING]:
        while len(living(group)) < 2:
            time.sleep(0.02)
    else:
        assert parent.stdout.readline() == "up\n"
    parent.send_signal(number)
    assert parent.wait() == -number
    assert ends(group) and ASKED_TO_END in stub.read_text()


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (TRACEBACK, r"exit code 1 \(some\.module\.LoadError: no weights\)"),
        (SILENT, r"exit code 3 \(it said nothing\)"),
    ],
)
def test_a_server_that_dies_while_it_starts(stub: Path, word: str, said: str) -> None:
    """What an earlier server had to say is in the same file."""
    stub.write_text("ValueError: earlier\n")
    with pytest.raises(UserError, match=rf"^the server ended .* {said}: .* see {stub}$"):
        LaunchedServer([word], stub).start()
    assert stub.read_text().startswith("ValueError: earlier\n")


def test_options_that_sglang_does_not_know(tmp_path: Path) -> None:
    """SGLang's own words."""
    server = LaunchedServer(["--model-path", "x", "--bogus", "3"], tmp_path / "log")
    with pytest.raises(UserError, match=r"exit code 2 \(.*unrecognized arguments: --bogus 3\)"), server:
        pass


def test_a_server_that_takes_too_long(stub: Path) -> None:
    server = LaunchedServer([STARTING], stub, start_timeout=1.0)
    with (
        pytest.raises(UserError, match=rf"did not answer within 1 s: see {stub}, or allow more time"),
        server,
    ):
        pass
    assert ends(server.pid)


def test_ports_of_others(stub: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = LaunchedServer(["--port", str(port)], stub)
        with pytest.raises(UserError, match=rf"listen at 127.0.0.1:{port} \(.*in use.*\): choose another"):
            server.start()
    assert not stub.exists()
    with server:
        assert server.url == f"http://127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("words", "url", "keys"),
    [
        (["--port", "7", "--host", "0.0.0.0"], "http://127.0.0.1:7", (None, None)),
        (["--api-key", "a", "--host=10.0.0.1", "--port=8"], "http://10.0.0.1:8", ("a", None)),
        (["--port=9", "--tp-size", "2", "--admin-api-key=b"], "http://127.0.0.1:9", (None, "b")),
    ],
)
def test_how_it_is_asked(words: list[str], url: str, keys: tuple[str | None, str | None]) -> None:
    server = LaunchedServer(words, Path("log"))
    assert (server.url, (server.api_key, server.admin_api_key)) == (url, keys)


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--port", "x"], "argument --port: invalid int"), (["--api-key"], "--api-key: expected one")],
)
def test_words_that_cannot_be_read(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=f"^the server's options: .*{re.escape(message)}"):
        LaunchedServer(words, Path("log"))


def test_words() -> None:
    assert lora_words(8, {"v_proj", "q_proj"}, 4) == [
        *("--enable-lora", "--max-lora-rank", "8", "--lora-target-modules", "q_proj", "v_proj"),
        *("--max-loras-per-batch", "4"),
    ]
    assert cpu_words(512)[:2] == ["--device", "cpu"] and cpu_words(512)[-2:] == ["--max-total-tokens", "512"]
