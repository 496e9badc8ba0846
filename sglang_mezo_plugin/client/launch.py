"""An SGLang server of one's own: launched, waited for, and ended whatever happens to this process.

    words = ["--model-path", model, *lora_words(rank=8, target_modules=["q_proj", "v_proj"], slots=16)]
    with LaunchedServer(words, run_folder / "server.log") as launched:
        with Server(launched.url, run="my_run", api_key=launched.api_key) as server: ...

SGLang is imported by the launched process alone.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import TracebackType
from typing import Self

from sglang_mezo_plugin.client.capabilities import lora_flags
from sglang_mezo_plugin.errors import UserError

LOCAL = "127.0.0.1"
# SGLang looks for SIGTERM every 5 seconds, then waits for requests and for its schedulers.
STOP_SECONDS = 30
# Reads until this process has ended, by whatever signal: then nobody else would end the server.
GUARD = f'read _; kill -TERM "$0"; sleep {STOP_SECONDS}; kill -KILL "-$0"'
POLL_SECONDS = 0.2
ANSWER_SECONDS = 30
STAMP = re.compile(r"^\[[^]]*\] ")
# The end of a traceback, or of what argparse says.
FAULT = re.compile(r"[\w.]*(Error|Exception)\b.*|.*\berror: .*")


class LaunchedServer:
    """A server of this process: between `with`, where it answers, and its end; or `start` and `stop`.

    words: SGLang's options, such as `python -m sglang.launch_server` takes. It listens at a free local port,
    unless --host and --port are among them. log: the file that its output is appended to. start_timeout:
    seconds until it must answer.

    url, api_key and admin_api_key are how it is asked. If this process is killed, the server ends too. Ctrl-C
    in a terminal reaches this process alone.
    """

    def __init__(self, words: Sequence[str], log: Path, start_timeout: float = 1800.0) -> None:
        self._words = list(words)
        self._log = log
        self._start_timeout = start_timeout
        options = _read_options(self._words)
        if options.port is None:
            options.port = _free_port()
            self._words += ["--port", str(options.port)]
        self._listens_at = (options.host, options.port)
        self._address = (LOCAL if options.host == "0.0.0.0" else options.host, options.port)
        self.api_key: str | None = options.api_key
        self.admin_api_key: str | None = options.admin_api_key

    @property
    def url(self) -> str:
        return "http://{}:{}".format(*self._address)

    @property
    def pid(self) -> int:
        """The process group that all processes of the server are in."""
        return self._process.pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Launch the server, and wait until it answers. It may have been stopped before.

        UserError with the last that its log has to say, if it ends before that: an option that SGLang does
        not know, a model that it cannot load.
        """
        _check_free(*self._listens_at)
        command = [sys.executable, "-m", "sglang.launch_server", *self._words]
        with self._log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        try:
            self._guard = subprocess.Popen(
                ["sh", "-c", GUARD, str(self.pid)], stdin=subprocess.PIPE, start_new_session=True
            )
            self._wait()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all processes of the server, by SIGTERM and then by SIGKILL. It may have died before."""
        self._process.terminate()  # the first alone: it would take the end of another for a crash
        try:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
            self._guard.kill()
            self._guard.communicate()

    def _wait(self) -> None:
        end = time.monotonic() + self._start_timeout
        while not self._answers():
            if (code := self._process.poll()) is not None:
                raise UserError(
                    f"the server ended while it started, with exit code {code} ({self._last_words()}): "
                    f"correct its options, or see {self._log}"
                )
            if time.monotonic() > end:
                raise UserError(
                    f"the server did not answer within {self._start_timeout:g} s: see {self._log}, or allow "
                    "more time"
                )
            time.sleep(POLL_SECONDS)

    def _answers(self) -> bool:
        # Not by urllib: it would ask a proxy. SGLang wants no key for this path.
        connection = HTTPConnection(*self._address, timeout=ANSWER_SECONDS)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    def _last_words(self) -> str:
        with self._log.open("rb") as log:
            log.seek(self._log_start)
            text = log.read().decode(errors="replace")
        lines = [STAMP.sub("", line).strip() for line in text.splitlines() if line.strip()]
        faults = [line for line in lines if FAULT.fullmatch(line)]
        return (faults or lines or ["it said nothing"])[-1]


def lora_words(rank: int, target_modules: Iterable[str], slots: int) -> list[str]:
    """Return the options for adapters of a rank on some modules, `slots` of them in a batch."""
    return lora_flags(rank, target_modules, slots).split()


def cpu_words(max_total_tokens: int) -> list[str]:
    """Return the options for a host without a GPU.

    max_total_tokens: of all requests at once, prompts and completions. Unless told so, SGLang takes most of
    the memory for their keys and values, and a core while it has nothing to do.
    """
    from sglang_mezo_plugin.runs.describe import ON_CPU  # it imports torch

    return [*ON_CPU, "--sleep-on-idle", "--max-total-tokens", str(max_total_tokens)]


def _read_options(words: Sequence[str]) -> argparse.Namespace:
    """Return those of SGLang's options that decide how its server is asked."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--host", default=LOCAL)
    parser.add_argument("--port", type=int)
    parser.add_argument("--api-key")
    parser.add_argument("--admin-api-key")
    try:
        options, _ = parser.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise UserError(f"the server's options: {error}") from None
    return options


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((LOCAL, 0))
        return listener.getsockname()[1]


def _check_free(host: str, port: int) -> None:
    """Raise UserError if another process listens there: it would be asked in place of the launched one."""
    try:
        socket.create_server((host, port)).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"no server can listen at {host}:{port} ({error}): choose another, or leave --port out"
        ) from None
