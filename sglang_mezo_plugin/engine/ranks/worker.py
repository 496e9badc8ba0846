"""A rank other than the first: it opens what rank 0 opens, and does what rank 0 says."""

from __future__ import annotations

from sglang_mezo_plugin.engine.opening import open_share
from sglang_mezo_plugin.engine.ranks.link import Link


def work(link: Link, rank: int) -> None:
    """Do rank `rank`'s share of a run until rank 0 closes the link."""
    messages = link.messages()
    opening = next(messages)
    with open_share(opening, rank) as share:
        for action, args, answers in messages:
            result = getattr(share, action)(*args)
            if answers:
                link.reply(result)
