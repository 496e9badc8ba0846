"""A running SGLang server, as the loop over generations uses it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from sglang_mezo_plugin.client.adapters import Adapters
from sglang_mezo_plugin.client.capabilities import ask_capabilities, lora_flags
from sglang_mezo_plugin.client.completions import complete
from sglang_mezo_plugin.client.errors import Refused, ServerError, Unauthorized, Unreachable
from sglang_mezo_plugin.client.evaluation import Evaluation
from sglang_mezo_plugin.client.transport import Retries, Transport
from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.models.peft_files import target_names
from sglang_mezo_plugin.training.members import Completion, Job, Member, Outcomes

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
logger = logging.getLogger(__name__)


class Server:
    """A server, between `with` and its end; there all adapters that were loaded through it are unloaded,
    also after an error or Ctrl-C.

    run: the name of the run, as `Adapters` has it. timeout: seconds for one completion. start_patience:
    seconds to wait for a server that is starting; by default one that cannot be reached is an error at once.
    adapter_folder: written to and read by the server, where tensors cannot be sent.

    Entering raises UserError if the server cannot be reached, wants another key or is none of SGLang's.
    """

    def __init__(
        self,
        url: str,
        *,
        run: str,
        api_key: str | None = None,
        admin_api_key: str | None = None,
        timeout: float = 600.0,
        retries: Retries | None = None,
        start_patience: float = 0.0,
        adapter_folder: Path | None = None,
    ) -> None:
        self._transport = Transport(url, api_key, admin_api_key, timeout, retries or Retries())
        self._run_name = run
        self._start_patience = start_patience
        self._adapter_folder = adapter_folder

    def __enter__(self) -> Self:
        self._runner = asyncio.Runner()
        try:
            self._run(self._open())
        except BaseException:
            self._run(self._transport.close())
            self._runner.close()
            raise
        return self

    async def _open(self) -> None:
        await self._transport.open()
        self.capabilities = await ask_capabilities(self._transport, self._start_patience)
        self._adapters = Adapters(
            self._transport, self._run_name, self.capabilities.tp_size, self._adapter_folder
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._run(self._leave())
        except ServerError as left:
            if error is None:
                raise
            # The error that ended the block says more.
            logger.warning("adapters may be left in the server: %s", left)
        finally:
            self._runner.close()

    async def _leave(self) -> None:
        # An exception out of a handler of signals leaves tasks behind, whose completions would hold adapters.
        await _cancel(asyncio.all_tasks() - {asyncio.current_task()})
        try:
            await self._adapters.unload_own()
        finally:
            await self._transport.close()

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(coroutine)

    def check_lora(
        self, tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any], slots: int = 8
    ) -> None:
        """Raise UserError with the flags to start the server with, unless it takes such an adapter.

        It is loaded once and unloaded: the server alone knows which names of modules it takes. slots: how
        many adapters to advise for a batch.
        """
        rank, targets = config["r"], target_names(tensors)
        self.capabilities.check_lora(rank, targets, slots)
        try:
            self.unload(self.load(tensors, config))
        except Refused as error:
            raise UserError(f"{error}: start the server with {lora_flags(rank, targets, slots)}") from None

    def load(self, tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> str:
        """Load an adapter, and return its name: see `Adapters.load`."""
        return self._run(self._adapters.load(tensors, config))

    def unload(self, name: str) -> None:
        """Unload an adapter, when the completions that use it have ended. No error if the server lacks it."""
        self._run(self._adapters.unload(name))

    def unload_leftovers(self) -> None:
        """Unload what earlier processes of this run, which were killed, have left."""
        self._run(self._adapters.unload_leftovers())

    def adapters(self) -> list[str]:
        """Return the names of all adapters that the server has loaded, whosever they are."""
        return self._run(self._adapters.names())

    def free_slots(self) -> int:
        """Return how many adapters can be loaded and run at once beside those that are loaded now."""
        return self.capabilities.free_slots(len(self.adapters()))

    def evaluate_members(self, members: Sequence[Member], concurrency: int) -> list[Outcomes]:
        """Return the outcomes of each member's jobs, in order, with at most `concurrency` in flight.

        As many members at once as the server has free slots. A job that fails for good has an error as its
        outcome. Raises Unreachable and Unauthorized, which are no job's fault.
        """
        evaluation = Evaluation(self._adapters, self._bounded(concurrency), self.free_slots())
        return self._run(_gather([evaluation.outcomes(member) for member in members]))

    def _bounded(self, concurrency: int) -> Callable[[Job], Awaitable[Completion | ServerError]]:
        """Return what asks for a completion, or returns its error, when fewer than so many are in flight."""
        in_flight = asyncio.Semaphore(concurrency)

        async def ask(job: Job) -> Completion | ServerError:
            async with in_flight:
                try:
                    return await complete(self._transport, self.capabilities.model, job)
                except (Unreachable, Unauthorized):
                    raise
                except ServerError as error:
                    return error

        return ask


async def _gather(coroutines: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Return the results of all; if one raises, cancel the others."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await _cancel(tasks)


async def _cancel(tasks: Sequence[asyncio.Task[Any]] | set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
