"""Completions of the base model, or of adapters by name: what the package itself asks of members alone."""

import asyncio
from collections.abc import Sequence

from sglang_mezo_plugin.client import Completion, Job, Retries
from sglang_mezo_plugin.client.capabilities import ask_capabilities
from sglang_mezo_plugin.client.completions import complete
from sglang_mezo_plugin.client.transport import Transport


def answers(
    url: str, jobs: Sequence[Job], api_key: str | None = None, admin_api_key: str | None = None
) -> list[Completion]:
    """Ask for all of them at once. Raises the first error that is for good, after two retries."""

    async def asked() -> list[Completion]:
        retries = Retries(count=2, patience=5.0, first_wait=0.01, longest_wait=0.05)
        transport = Transport(url, api_key, admin_api_key, 120.0, retries)
        await transport.open()
        try:
            model = (await ask_capabilities(transport, 0.0)).model
            return await asyncio.gather(*(complete(transport, model, job) for job in jobs))
        finally:
            await transport.close()

    return asyncio.run(asked())


def answer(url: str, job: Job, **keys: str | None) -> Completion:
    return answers(url, [job], **keys)[0]
