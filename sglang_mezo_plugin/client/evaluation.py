"""Members of a population, more than a server has slots for: each is evaluated as soon as one is free.

While some are being asked, others are sent and unloaded: neither the server nor the network waits for the
slowest completion of a whole batch of members.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from sglang_mezo_plugin.client.adapters import Adapters
from sglang_mezo_plugin.client.errors import Refused, ServerError
from sglang_mezo_plugin.training.members import Completion, Job, Member, Outcomes

# A server that loses a member's adapter more often does not last a generation.
RELOADS = 3


class Evaluation:
    """Evaluates members on one server. ask: returns the outcome of a job. slots: adapters loaded at once."""

    def __init__(
        self, adapters: Adapters, ask: Callable[[Job], Awaitable[Completion | ServerError]], slots: int
    ) -> None:
        self._adapters, self._ask = adapters, ask
        self._slots = asyncio.Semaphore(slots)
        # The server loads one at a time; more on their way to it would only take memory.
        self._sending = asyncio.Lock()

    async def outcomes(self, member: Member) -> Outcomes:
        """Return the outcomes of a member's jobs, in order; for each the error, if its adapter is refused.

        If the server restarts meanwhile, and so has lost the adapter, it is loaded and asked again.
        """
        async with self._slots:
            for _ in range(1 + RELOADS):
                try:
                    name = await self._load(member)
                except Refused as error:
                    return [error] * len(member.jobs)
                jobs = [replace(job, adapter=name) for job in member.jobs]
                found = list(await asyncio.gather(*map(self._ask, jobs)))
                refused = any(isinstance(outcome, Refused) for outcome in found)
                if not refused or name in await self._adapters.names():
                    await self._adapters.unload(name)
                    break
        return found

    async def _load(self, member: Member) -> str:
        async with self._sending:
            return await self._adapters.load(await asyncio.to_thread(member.tensors), member.config)
