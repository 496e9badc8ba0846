"""Weights that the engine has loaded and never uses, such as the bias of a head that its logits leave out.

One short forward is watched for what its operations read. What they do not show, because a kernel of its own
may have taken it, is tried: if the scores stay finite while a weight is NaN, nothing has read it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from sglang.srt.runtime_context import get_parallel
from torch.utils._python_dispatch import TorchDispatchMode

from sglang_mezo_plugin.engine.soundness.loading import reads, sources_of
from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.training.objectives import Scores


def refuse_unread(model: torch.nn.Module, score: Callable[[], Scores], converted: Iterable[int]) -> None:
    """Raise UserError, naming the weight, if the model has one that scoring does not read.

    score: scores a few tokens at the weights that are loaded. converted: addresses of parameters that were
    made into others at loading. Weights of a tower that text does not pass (images, draft tokens) are none of
    this: of such a part nothing is read.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.is_floating_point()}
    watch = _Reads()
    with watch:
        score()
    used = watch.addresses | set(converted)
    flags = [parameter.untyped_storage().data_ptr() in used for parameter in parameters.values()]
    unread = {
        name: parameter
        for (name, parameter), is_used in zip(parameters.items(), _on_any_shard(flags), strict=True)
        if not is_used
    }
    unread = {name: p for name, p in unread.items() if not _in_unread_tower(model, name, parameters, unread)}
    for name, parameter in unread.items():
        if _stays_finite(parameter, score):
            raise UserError(
                f"{name}: SGLang's {type(model).__name__} loads it and does not use it, so it is another "
                "model: train one of another architecture"
            )


class _Reads(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.addresses: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if reads(func):
            self.addresses.update(
                tensor.untyped_storage().data_ptr() for tensor in sources_of(func, args, kwargs or {})
            )
        return func(*args, **(kwargs or {}))


def _on_any_shard(flags: list[bool]) -> list[bool]:
    """Return what holds on one of the ranks that share the weights: a bias may be added by the first alone.

    All of them then try the same weights, each in forwards of all.
    """
    group = get_parallel().tp_group
    if group.world_size == 1:
        return flags
    return group.all_reduce(torch.tensor(flags, dtype=torch.float32, device=group.device)).bool().tolist()


def _in_unread_tower(
    model: torch.nn.Module,
    name: str,
    parameters: dict[str, torch.nn.Parameter],
    unread: dict[str, torch.nn.Parameter],
) -> bool:
    """Whether a weight belongs to a part of the model, of several modules, none of whose weights is read."""
    words = name.split(".")
    for depth in (1, 2):
        tower = ".".join(words[:depth])
        inside = [other for other in parameters if other.startswith(f"{tower}.")]
        modules = {other.rpartition(".")[0] for other in inside}
        if len(modules) > 1 and all(other in unread for other in inside):
            return True
    return False


def _stays_finite(parameter: torch.nn.Parameter, score: Callable[[], Scores]) -> bool:
    """Whether scores are numbers while a weight is NaN."""
    own = parameter.data
    parameter.data = torch.full_like(own, torch.nan)
    try:
        scores = score()
    finally:
        parameter.data = own
    return all(np.isfinite(option).all() for options in scores for option in options)
