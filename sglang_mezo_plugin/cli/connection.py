"""From the options of a server to a connection: with one that runs, or that is launched for the run."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from sglang_mezo_plugin.cli.options import EvolveOptions
from sglang_mezo_plugin.cli.runs import report
from sglang_mezo_plugin.client import Retries, Server
from sglang_mezo_plugin.client.launch import LaunchedServer, lora_words
from sglang_mezo_plugin.models.adapter import Adapter
from sglang_mezo_plugin.models.peft_files import target_names

MEMORY = "/dev/shm"
SLOTS = 32  # members in a batch, at most, of a server that is launched without --max-loras-per-batch


@contextmanager
def connected(
    options: EvolveOptions, server_args: Sequence[str], folder: Path, adapter: Adapter, checkpoint: Path
) -> Iterator[Server]:
    """Yield a server that takes such adapters, and has none of this run. UserError if it does not."""
    config = adapter.config.to_dict()
    with ExitStack() as stack:
        url, shared = options.server, options.adapter_folder
        if options.launch_server:
            shared = shared or stack.enter_context(
                TemporaryDirectory(prefix="adapters-", dir=memory_folder())
            )
            report(f"launching SGLang; its log is {folder / 'server.log'} ...")
            words = launch_words(options, server_args, checkpoint, config["r"], target_names(adapter.tensors))
            url = stack.enter_context(LaunchedServer(words, folder / "server.log")).url
        server = stack.enter_context(
            Server(
                url,
                run=run_name(folder),
                api_key=options.key,
                admin_api_key=options.admin_api_key,
                timeout=options.timeout,
                retries=Retries(patience=options.patience),
                adapter_folder=Path(shared) if shared else None,
            )
        )
        server.capabilities.check_model(checkpoint)
        server.unload_leftovers()
        server.check_lora(adapter.tensors, config, slots(options))
        yield server


def launch_words(
    options: EvolveOptions, server_args: Sequence[str], checkpoint: Path, rank: int, targets: set[str]
) -> list[str]:
    """Return SGLang's options for a server of this run: what it needs, then what the user says."""
    words = ["--model-path", str(checkpoint), *lora_words(rank, targets, slots(options)), *server_args]
    for name, key in (("--api-key", options.key), ("--admin-api-key", options.admin_api_key)):
        if key:
            words += [name, key]
    return words


def memory_folder() -> str | None:
    """Return a folder in memory, or None for that of temporary files: a server on this host reads it there.

    Nothing is written as text, sent and read again, as tensors in a request are.
    """
    return MEMORY if os.access(MEMORY, os.W_OK) else None


def slots(options: EvolveOptions) -> int:
    """Return how many adapters a server is best started for."""
    return min(SLOTS, options.population + options.mean)


def run_name(folder: Path) -> str:
    """Return a name that a run keeps when it is resumed, and that no other has on its server."""
    place = f"{socket.gethostname()}:{folder.resolve()}"
    return f"evolve.{hashlib.sha256(place.encode()).hexdigest()[:12]}"
