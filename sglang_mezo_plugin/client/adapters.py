"""Adapters in a server's memory: loaded under names that nobody else has, and unloaded again."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from sglang_mezo_plugin.client.errors import (
    Refused,
    ServerError,
    TimedOut,
    Transient,
    Unauthorized,
    Unreachable,
)
from sglang_mezo_plugin.client.tensors import json_config, peft_folder, serialize
from sglang_mezo_plugin.client.transport import Transport
from sglang_mezo_plugin.errors import UserError

if TYPE_CHECKING:
    import torch


class Adapters:
    """The adapters that one process has in a server.

    A name is RUN-SESSION-NUMBER, with a session of 32 random bits. None is used twice, not even to repeat a
    request whose answer was lost; so no cached prefix of an older adapter can be hit, and whatever an answer
    would have said, the names that the server lists tell what is to be unloaded.

    run: of letters, digits, dots and underscores; shared by the processes that continue one run, and by no
    other run on that server. tp_size: of the server. folder: where the server reads adapters, or None to send
    them.
    """

    def __init__(self, transport: Transport, run: str, tp_size: int, folder: Path | None) -> None:
        if not re.fullmatch(r"[\w.]+", run, re.ASCII):
            raise ValueError(f"run must be of letters, digits, dots and underscores, not {run!r}")
        self._transport = transport
        self._run = run
        self._session = uuid4().hex[:8]
        self._numbers = count()
        self._unanswered: set[str] = set()
        self._tp_size = tp_size
        self._folder = folder

    async def load(self, tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> str:
        """Load an adapter, and return its name.

        tensors: A [rank, in] and B [out, rank], by their names in PEFT's files. config: PEFT's.
        """
        if self._folder is not None:
            with peft_folder(self._folder, tensors, config) as folder:
                # The server must find the folder at the same path.
                return await self._load("/load_lora_adapter", {"lora_path": str(folder)})
        # Each rank of tensor parallelism reads its own copy.
        body = {
            "config_dict": json_config(config),
            "serialized_named_tensors": [await asyncio.to_thread(serialize, tensors)] * self._tp_size,
        }
        try:
            return await self._load("/load_lora_adapter_from_tensors", body)
        except Refused as error:
            if error.status != 404:
                raise
            raise UserError(
                f"{self._transport.url} has no /load_lora_adapter_from_tensors: pass a folder that this "
                "process can write and the server can read"
            ) from None

    async def _load(self, path: str, body: Mapping[str, Any]) -> str:
        async def attempt() -> str:
            name = f"{self._run}-{self._session}-{next(self._numbers)}"
            self._unanswered.add(name)
            try:
                await self._transport.once(path, {"lora_name": name, **body}, admin=True)
            except (Refused, Unreachable, Unauthorized):
                self._unanswered.discard(name)
                raise
            self._unanswered.discard(name)
            return name

        return await self._transport.retrying(attempt)

    async def unload(self, name: str) -> None:
        """Unload an adapter, when the completions that use it have ended. No error if the server lacks it."""
        await self._unload(name, patience=None)

    async def _unload(self, name: str, patience: float | None) -> None:
        try:
            await self._transport.send(
                "/unload_lora_adapter", {"lora_name": name}, admin=True, patience=patience
            )
        except Refused:
            # A first answer may have been lost, or the server restarted.
            if name in await self.names(patience):
                raise

    async def names(self, patience: float | None = None) -> list[str]:
        """Return the names of all adapters that the server has loaded, whosever they are."""
        cards = await self._transport.send("/v1/models", patience=patience)
        return [card["id"] for card in cards["data"] if card.get("parent")]

    async def unload_own(self) -> None:
        """Unload what this process has loaded. A server that is down has nothing loaded."""
        try:
            own = await self._matching(lambda session: session == self._session)
            # The server may still be loading the others, and lists them only then: an unload waits for that.
            await self._unload_all({*own, *self._unanswered})
        except Unreachable:
            return

    async def unload_leftovers(self) -> None:
        """Unload what other processes of this run, which were killed, have left."""
        await self._unload_all(await self._matching(lambda session: session != self._session))

    async def _matching(self, wanted: Callable[[str], bool]) -> set[str]:
        """Return the names of this run's adapters, of the sessions that are wanted."""
        pattern = re.compile(rf"{re.escape(self._run)}-([0-9a-f]{{8}})-[0-9]+")
        found = {name: pattern.fullmatch(name) for name in await self.names(patience=0)}
        return {name for name, match in found.items() if match and wanted(match[1])}

    async def _unload_all(self, names: Iterable[str]) -> None:
        """Unload them all, whatever becomes of one; then raise the last error, if there was one."""
        failed: ServerError | None = None
        for name in sorted(names):
            try:
                await self._unload(name, patience=0)
            except (Refused, TimedOut, Transient) as error:
                failed = error
        if failed is not None:
            raise failed
