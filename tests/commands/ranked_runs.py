"""Commands of several processes, as a launcher starts them, and what there is to know of processes."""

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from children import Child, Commands, command

from sglang_mezo_plugin.runs.journal import StepRecord, read_journal

LAYOUTS: dict[str, list[Any]] = {
    "dp": ["--dp-size", 2],
    "tp": ["--tp-size", 2],
    "dp-tp": ["--dp-size", 2, "--tp-size", 2],
}


def size_of(layout: Sequence[Any]) -> int:
    return 2 ** (len(layout) // 2)


def start_ranks(commands: Commands, size: int, words: Sequence[Any]) -> list[Child]:
    """Start `train` in as many processes, with the variables that torchrun sets."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    words = [str(word) for word in words]
    return [
        commands.start(in_environment, {**common, "RANK": rank, "LOCAL_RANK": rank}, command, "train", words)
        for rank in range(size)
    ]


def in_environment(variables: Mapping[str, object], function: Callable[..., None], *args: Any) -> None:
    os.environ.update({name: str(value) for name, value in variables.items()})
    function(*args)


def train_on_ranks(commands: Commands, size: int, words: Sequence[Any]) -> None:
    """Train, and check that all processes end well and that the first one alone speaks."""
    outcomes = [child.wait() for child in start_ranks(commands, size, words)]
    assert [outcome.exit_code for outcome in outcomes] == size * [0], outcomes
    assert [outcome.stdout for outcome in outcomes[1:]] == (size - 1) * [""]


def records_of(folder: Path) -> list[StepRecord]:
    return list(read_journal(folder / "journal.jsonl")[1])


def workers_of(child: Child) -> list[psutil.Process]:
    """Return the processes that a command has started, but for Python's own helpers."""
    started = psutil.Process(child.process.pid).children(recursive=True)
    return [process for process in started if "spawn_main" in " ".join(process.cmdline())]
