"""A rank other than the first: it opens what rank 0 opens, and does what rank 0 says."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from sglang_mezo_plugin.engine.ranks.link import CLOSING_SECONDS, REASON_SECONDS, Failed, Link
from sglang_mezo_plugin.errors import UserError, quiet_libraries


def follow(connection: Connection, rank: int) -> None:
    """Be rank `rank` of a run, in a process that is there for nothing else."""
    link = Link(connection)
    with quiet_libraries():
        # Not before: it takes half a minute, in which rank 0 may end.
        from sglang_mezo_plugin.engine.opening import open_share

        try:
            work(link, partial(open_share, rank=rank))
        except UserError as error:
            link.reply(Failed(str(error)))
            time.sleep(CLOSING_SECONDS)  # rank 0 ends the run, and this process with it
        except BaseException as error:
            time.sleep(REASON_SECONDS)
            link.reply(Failed(f"rank {rank}: {type(error).__name__}: {error}".splitlines()[0]))
            raise


def work(link: Link, open_share: Callable[[Any], AbstractContextManager[Any]]) -> None:
    """Do one rank's share of a run until rank 0 closes the link.

    open_share: takes rank 0's first message, an `Opening`, and yields the `Share` whose methods the others
    name.
    """
    messages = link.messages()
    with open_share(next(messages)) as share:
        for action, args, answers in messages:
            result = getattr(share, action)(*args)
            if answers:
                link.reply(result)
