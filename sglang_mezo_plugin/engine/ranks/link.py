"""Every rank but the first: it does what rank 0 says, and ends when rank 0 does."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from sglang_mezo_plugin.errors import UserError, quiet_libraries

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


def follow(connection: Connection, rank: int) -> None:
    """Be rank `rank` of a run, in a process that is there for nothing else."""
    link = Link(connection)
    with quiet_libraries():
        # Not before: it takes half a minute, in which rank 0 may end.
        from sglang_mezo_plugin.engine.ranks.worker import work

        try:
            work(link, rank)
        except UserError as error:
            link.reply(Failed(str(error)))
            time.sleep(CLOSING_SECONDS)  # rank 0 ends the run, and this process with it
        except BaseException as error:
            time.sleep(REASON_SECONDS)
            link.reply(Failed(f"rank {rank}: {type(error).__name__}: {error}".splitlines()[0]))
            raise
