"""A server of SGLang's, which takes a while to start, and its clients."""

import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from sglang_mezo_plugin.client import Completion, Retries, Server, client, completions
from sglang_mezo_plugin.client.launch import LaunchedServer, cpu_words


class RealServer(LaunchedServer):
    def __init__(self, model: Path, words: Sequence[str], log: Path) -> None:
        own = ["--model-path", str(model), "--dtype", "float32", "--log-level", "warning"]
        super().__init__([*own, *cpu_words(max_total_tokens=4096), *words], log, start_timeout=600)

    def start(self) -> None:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("OMP_NUM_THREADS", "1")  # more only wait for each other, on models this small
            super().start()

    @property
    def keys(self) -> dict[str, str | None]:
        return {"api_key": self.api_key, "admin_api_key": self.admin_api_key}

    def connect(self, **options: Any) -> Server:
        patient = Retries(patience=600, first_wait=0.1, longest_wait=1)
        return Server(self.url, **{"run": "run", "retries": patient, "timeout": 120, **self.keys, **options})

    @contextmanager
    def killed_at(self, number: int) -> Iterator[None]:
        """Kill the server as this process begins to ask for its number-th completion, and start it again."""
        asked, restarted = count(1), list[Future[None]]()

        async def complete(*args: Any) -> Completion:
            if next(asked) == number:
                os.killpg(self.pid, signal.SIGKILL)
                restarted.append(threads.submit(self._restart))
            return await completions.complete(*args)

        with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as threads:
            patch.setattr(client, "complete", complete)
            yield
            restarted[0].result()

    def _restart(self) -> None:
        self.stop()
        self.start()
