"""What a server says of itself, and which flags it lacks to evaluate adapters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sglang_mezo_plugin.client.errors import Refused
from sglang_mezo_plugin.client.transport import Transport
from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.models.checkpoint import read_config


@dataclass(frozen=True)
class Capabilities:
    """The part of SGLang's arguments that decides what can be asked of a server.

    model: the name that it serves its base model under. model_path: where it has it from, in its own words.
    max_lora_rank: None if the server took it from the adapters that it was started with. max_loaded_loras:
    None if there is no limit.
    """

    url: str
    model: str
    model_path: str
    tp_size: int
    dp_size: int
    enable_lora: bool
    max_lora_rank: int | None
    max_loras_per_batch: int
    max_loaded_loras: int | None
    deterministic: bool

    def check_lora(self, rank: int, target_modules: Iterable[str], slots: int) -> None:
        """Raise UserError with the flags to start the server with, if it cannot load such adapters.

        Target modules are not compared here: SGLang maps their names onto fused ones, model by model, and
        says so when it is sent an adapter.
        """
        if not self.enable_lora:
            reason = "was started without LoRA"
        elif self.max_lora_rank is not None and rank > self.max_lora_rank:
            reason = f"takes adapters up to rank {self.max_lora_rank}, not {rank}"
        elif self.dp_size > 1:
            raise UserError(
                f"{self.url} has --dp-size {self.dp_size}, and SGLang loads no adapters into replicas: start "
                "it with --dp-size 1"
            )
        else:
            return
        raise UserError(f"{self.url} {reason}: start it with {lora_flags(rank, target_modules, slots)}")

    def check_model(self, checkpoint: Path) -> None:
        """Raise UserError if the server's base model is another one, as far as this host can see its files.

        SGLang compares an adapter's rank and modules with its own when it is loaded, but not all shapes.
        """
        theirs = Path(self.model_path) / "config.json"
        if theirs.is_file() and read_config(theirs.parent) != read_config(checkpoint):
            raise UserError(
                f"{self.url} serves {self.model_path}, whose config.json is not that of {checkpoint}: pass "
                "the server's model as --model-path"
            )

    def check_seeds(self) -> None:
        """Raise UserError if the server would ignore the seeds of sampled completions."""
        if not self.deterministic:
            raise UserError(
                f"{self.url} ignores the seeds of sampled completions: start it with "
                "--enable-deterministic-inference, or ask for greedy ones"
            )

    def free_slots(self, others: int) -> int:
        """Return how many adapters can be loaded and run at once beside `others` that stay loaded.

        More would make SGLang unload the least recently used ones, whosever they are. UserError if none.
        """
        loadable = (
            self.max_loras_per_batch if self.max_loaded_loras is None else self.max_loaded_loras - others
        )
        if loadable < 1:
            raise UserError(
                f"{self.url} has {others} adapters loaded, and --max-loaded-loras {self.max_loaded_loras}: "
                "unload some, or start it with a higher limit"
            )
        return min(loadable, self.max_loras_per_batch)


def lora_flags(rank: int, target_modules: Iterable[str], slots: int) -> str:
    """Return the options of SGLang's server for adapters of a rank on some modules, `slots` in a batch."""
    return (
        f"--enable-lora --max-lora-rank {rank} --lora-target-modules {' '.join(sorted(target_modules))} "
        f"--max-loras-per-batch {slots}"
    )


async def ask_capabilities(transport: Transport, patience: float) -> Capabilities:
    """Ask a server for its arguments. patience: seconds to wait for one that is starting.

    UserError if it is no SGLang server, besides what `Transport.send` raises.
    """
    try:
        said = await transport.send("/server_info", patience=patience)
    except Refused as error:
        if error.status != 404:
            raise
        said = await _ask_older(transport)
    try:
        return _capabilities(transport.url, said)
    except (KeyError, TypeError) as error:
        raise _stranger(transport.url, f"it does not state {error}") from None


async def _ask_older(transport: Transport) -> Any:
    try:
        return await transport.send("/get_server_info")
    except Refused as error:
        raise _stranger(transport.url, error.reason) from None


def _stranger(url: str, reason: str) -> UserError:
    return UserError(f"{url} is no SGLang server that this version knows ({reason}): correct --server")


def _capabilities(url: str, said: Mapping[str, Any]) -> Capabilities:
    return Capabilities(
        url=url,
        model=said["served_model_name"],
        model_path=said["model_path"],
        tp_size=said["tp_size"],
        dp_size=said["dp_size"],
        enable_lora=bool(said["enable_lora"]),
        max_lora_rank=said["max_lora_rank"],
        max_loras_per_batch=said["max_loras_per_batch"],
        max_loaded_loras=said["max_loaded_loras"],
        deterministic=bool(said.get("enable_deterministic_inference")),
    )
