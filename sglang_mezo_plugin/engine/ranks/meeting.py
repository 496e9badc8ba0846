"""How ranks that a launcher such as torchrun has started on one host find each other."""

from __future__ import annotations

import os
import socket
import tempfile
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

from torch import distributed
from torch.distributed import Store

from sglang_mezo_plugin.errors import UserError

SECONDS = 300.0  # for all of them to start
KEY = "sglang-mezo"


def launched_rank(size: int) -> int | None:
    """Return this process's rank if a launcher has started `size` processes; None if it has started one.

    UserError for another number of them, and for several hosts.
    """
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world == 1:
        return None
    if world != size:
        raise UserError(
            f"WORLD_SIZE is {world}, but --tp-size times --dp-size is {size}: let the launcher start "
            f"{size} processes"
        )
    if int(os.environ.get("LOCAL_WORLD_SIZE", world)) != world:
        raise UserError("the launcher's processes are on several hosts: start them on one")
    return int(os.environ["RANK"])


def meet_others(size: int) -> list[Connection]:
    """Return rank 0's connections with ranks 1, 2, ..., once they have come.

    They come through a socket in a folder of this user's alone: what they say is unpickled.
    """
    others: dict[int, Connection] = {}
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        path = str(Path(folder, "ranks"))
        server.bind(path)
        server.listen(size)
        server.settimeout(SECONDS)
        store = _store()
        store.set(KEY, path)
        while len(others) < size - 1:
            try:
                accepted = server.accept()[0]
            except TimeoutError:
                raise UserError(
                    f"{size - 1 - len(others)} of {size} ranks have not come in {SECONDS:.0f} seconds: see "
                    "what the launcher says of them"
                ) from None
            accepted.setblocking(True)
            connection = Connection(accepted.detach())
            others[connection.recv()] = connection
    return [others[rank] for rank in range(1, size)]


def meet_first(rank: int) -> Connection:
    """Return the connection of another rank with rank 0."""
    path = _store().get(KEY).decode()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        connection = Connection(client.detach())
    connection.send(rank)
    return connection


def _store() -> Store:
    return next(distributed.rendezvous("env://", timeout=timedelta(seconds=SECONDS)))[0]
