"""Commands in child processes that have SGLang imported already."""

import gc
import importlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

from fork_server import PACKAGE, fork_server

TIMEOUT = 300.0


class Outcome(NamedTuple):
    """What has come of a command. exit_code: minus the number of the signal that ended it, if one did."""

    exit_code: int
    stdout: str
    stderr: str


class Child:
    """A process that calls function(*args), with its output in files."""

    def __init__(self, context: Any, folder: Path, function: Callable[..., Any], *args: Any) -> None:
        self._files = [folder / name for name in ("stdout", "stderr")]
        self.process: BaseProcess = context.Process(target=_call, args=(self._files, function, *args))
        self.process.start()

    def signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def wait(self) -> Outcome:
        self.process.join(TIMEOUT)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(self._files[1].read_text())
        return Outcome(self.process.exitcode, *(file.read_text() for file in self._files))


class Commands:
    """Starts commands in children. folder: for what they print."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started = 0
        self._context = fork_server()

    def start(self, function: Callable[..., Any], *args: Any) -> Child:
        self._started += 1
        folder = self._folder / str(self._started)
        folder.mkdir()
        return Child(self._context, folder, function, *args)

    def start_command(self, name: str, words: Sequence[Any]) -> Child:
        return self.start(command, name, [str(word) for word in words])

    def __call__(self, name: str, *words: Any) -> Outcome:
        """Run `python -m sglang_mezo_plugin.<name> words`."""
        return self.start_command(name, words).wait()

    def succeed(self, name: str, *words: Any) -> Outcome:
        outcome = self(name, *words)
        assert outcome.exit_code == 0, outcome.stderr
        return outcome


def command(name: str, words: Sequence[str]) -> None:
    importlib.import_module(f"{PACKAGE}.{name}").main(words)


def wait_for(condition: Callable[[], bool], child: Child) -> None:
    """Poll until it is so, or the child has ended."""
    while not condition() and child.process.is_alive():
        time.sleep(0.002)


def _call(files: Sequence[Path], function: Callable[..., Any], *args: Any) -> None:
    for stream, file in zip((sys.stdout, sys.stderr), files, strict=True):
        stream.flush()
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream.fileno())
    gc.freeze()  # the engine collects garbage when it is closed; what was imported is none
    function(*args)
