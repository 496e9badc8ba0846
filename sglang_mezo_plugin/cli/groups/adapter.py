"""Options of the adapter that is trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sglang_mezo_plugin.cli.declaring import Options, option
from sglang_mezo_plugin.models.adapter import ALPHA, RANK, RANK_BOUND


def _is_fresh(options: Any) -> bool:
    return options.mode == "lora" and not options.lora_path


@dataclass(frozen=True, kw_only=True)
class Lora(Options):
    title = "adapter (--mode lora)"
    description = "as in PEFT"

    lora_rank: int = option(RANK, bound=RANK_BOUND, header=100, when=_is_fresh, help="default: {default}")
    lora_alpha: float = option(ALPHA, header=101, when=_is_fresh, help="default: {default}")
    lora_target_modules: Sequence[str] | Literal["all-linear"] | None = option(
        None,
        header=102,
        when=_is_fresh,
        metavar="NAME",
        help="names of modules, or all-linear; default: PEFT's choice for the model",
    )
    lora_layers_to_transform: Sequence[int] | None = option(
        None, header=103, when=_is_fresh, metavar="N", help="default: all layers"
    )
    lora_path: str | None = option(None, metavar="DIR", help="start from this PEFT adapter, geometry and all")

    def __post_init__(self) -> None:
        if self.lora_target_modules == ["all-linear"]:
            self._fill("lora_target_modules", "all-linear")
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class OnlyLora(Lora):
    """Where there is no other mode."""

    title = "adapter"


def started_from(options: Any) -> Path | None:
    """Return the folder of the adapter that a run begins with, None for a fresh one or none."""
    return Path(options.lora_path) if options.mode == "lora" and options.lora_path else None
