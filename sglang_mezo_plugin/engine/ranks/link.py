"""The connection of another rank with rank 0, and what passes through it when the run ends."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

CLOSED = b""  # the last message to a rank
CLOSING_SECONDS = 60.0
# For a rank that fails to learn that another one failed before it, which then is the reason.
REASON_SECONDS = 3.0


@dataclass(frozen=True)
class Failed:
    """Why a rank ends, in one line."""

    line: str


class Link:
    """The connection of another rank with rank 0. The process ends when rank 0 does."""

    def __init__(self, connection: Connection) -> None:
        # Rank 0 decides when a run stops; Ctrl-C and launchers signal to all.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        self._connection = connection
        self._messages: SimpleQueue[bytes] = SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def messages(self) -> Iterator[Any]:
        """Yield what rank 0 says until it closes."""
        while (message := self._messages.get()) != CLOSED:
            # Here, not in the thread that listens: it imports what this thread may be importing.
            yield pickle.loads(message)

    def reply(self, answer: Any) -> None:
        self._connection.send_bytes(pickle.dumps(answer))

    def _listen(self) -> None:
        message = None
        while message != CLOSED:
            try:
                message = self._connection.recv_bytes()
            except (EOFError, OSError):
                os._exit(1)
            self._messages.put(message)
