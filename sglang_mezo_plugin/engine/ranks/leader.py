"""The processes of a run on several devices: how they start, how they find each other, and how they end.

Rank 0 leads: it alone reads data, writes files and speaks to the user, and it tells the others what to do.
It starts them itself, or finds them started by a launcher such as torchrun, and has one connection with each,
for token ids, seeds and log-probabilities. What the others run is handed in: nothing here needs the engine,
which takes half a minute to import.

A collective that waits for a dead peer cannot be interrupted. So when a rank is lost, the others end at once:
rank 0 with one line and exit code 2, whatever it is doing, as if it were killed; the rest without a word.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from typing import Any, NoReturn

from sglang_mezo_plugin.engine.ranks.layout import Layout
from sglang_mezo_plugin.engine.ranks.link import CLOSED, CLOSING_SECONDS, REASON_SECONDS, Failed
from sglang_mezo_plugin.engine.ranks.meeting import launched_rank, meet_first, meet_others
from sglang_mezo_plugin.errors import UserError

Follow = Callable[[Connection, int], None]
"""Is another rank until the run ends, given its connection with rank 0, and its number."""


class Ranks:
    """All ranks of a run, as rank 0 sees them.

    With a launcher's variables in the environment, one process for each rank, the others are here already;
    and in these others the constructor does not return: they do what rank 0 says, and end. Variables of a
    launcher that has started one process change nothing. UserError if it has started another number, or on
    several hosts.

    follow: `worker.follow`. A process that is spawned imports it by its name.
    """

    def __init__(self, layout: Layout, follow: Follow) -> None:
        self.layout = layout
        self._follow = follow
        self._connections: list[Connection] = []
        self._processes: list[BaseProcess] = []
        self._replies: list[SimpleQueue[Any]] = []
        self._ending = threading.Lock()  # whoever holds it says why the run ends
        self._closed = False
        self._patience: threading.Timer | None = None
        rank = launched_rank(layout.size) if layout.size > 1 else None
        if rank == 0:
            self._connections = meet_others(layout.size)
        elif rank is not None:
            follow(meet_first(rank), rank)
            sys.exit(0)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Start the other ranks, if no launcher has; they are gone afterwards."""
        for _ in range(0 if self._connections else self.layout.size - 1):
            self._start()
        for rank, connection in enumerate(self._connections, 1):
            self._replies.append(SimpleQueue())
            threading.Thread(target=self._listen, args=(rank, connection), daemon=True).start()
        try:
            yield
        except BaseException as error:
            self._abandon(error)
            if self._patience:
                self._patience.cancel()
            raise
        for process in self._processes:
            process.join(CLOSING_SECONDS)
            process.kill()

    @contextmanager
    def leading(self) -> Iterator[None]:
        """Lead the other ranks, and let them leave what they have opened while rank 0 does.

        Both ends of a communicator must go at once.
        """
        try:
            yield
        except (UserError, KeyboardInterrupt):
            self._close()
            raise
        except BaseException as error:
            self._abandon(error)
            # To leave a communicator may take its other ends, which are no more.
            self._patience = threading.Timer(CLOSING_SECONDS, _give_up, [error])
            self._patience.daemon = True
            self._patience.start()
            raise
        self._close()

    def tell(self, ranks: Iterable[int], message: Any) -> None:
        """Send a message to ranks, none of which is rank 0."""
        self._send(ranks, pickle.dumps(message))

    def hear(self, rank: int) -> Any:
        """Wait for a rank's next reply."""
        return self._replies[rank - 1].get()

    def _send(self, ranks: Iterable[int], data: bytes) -> None:
        for rank in ranks:
            # A rank that is lost is not missed here: who listens to it ends the process.
            with suppress(OSError):
                self._connections[rank - 1].send_bytes(data)

    def _close(self) -> None:
        self._closed = True
        self._send(range(1, self.layout.size), CLOSED)

    def _abandon(self, error: BaseException) -> None:
        if not self._closed:
            if self._connections and not isinstance(error, UserError | KeyboardInterrupt):
                time.sleep(REASON_SECONDS)
            self._ending.acquire()
            self._closed = True
        for process in self._processes:
            process.kill()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=self._follow, args=(theirs, len(self._connections) + 1))
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the child inherits it: Ctrl-C is for rank 0
        process.start()
        signal.signal(signal.SIGINT, handler)
        theirs.close()
        self._connections.append(ours)
        self._processes.append(process)

    def _listen(self, rank: int, connection: Connection) -> None:
        while True:
            try:
                reply = pickle.loads(connection.recv_bytes())
            except (EOFError, OSError):
                if not self._closed:
                    self._end(f"rank {rank} is gone{self._how(rank)}: start the command again, with --resume")
                return
            if isinstance(reply, Failed):
                time.sleep(REASON_SECONDS)  # rank 0 mostly fails alike, and then it is known here better
                self._end(reply.line)
            self._replies[rank - 1].put(reply)

    def _how(self, rank: int) -> str:
        if not self._processes:
            return ""
        process = self._processes[rank - 1]
        process.join(REASON_SECONDS)
        return f" (exit code {process.exitcode})"

    def _end(self, line: str) -> NoReturn:
        with self._ending:
            print(f"error: {line}", file=sys.stderr, flush=True)
            os._exit(2)


def _give_up(error: BaseException) -> NoReturn:
    print(f"error: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    os._exit(2)
