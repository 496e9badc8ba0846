"""Many tensors at once: checked when a plan is made, then written by one launch on a GPU."""

from collections.abc import Sequence
from types import ModuleType

import torch

from sglang_mezo_plugin.noise.checks import check_apart, check_finite, check_moves, check_rounding, plan
from sglang_mezo_plugin.noise.region import Direction, Region


class PairPlan:
    """Where W + eps z and W - eps z of several tensors are to be written.

    parts: (out_plus, out_minus, weight, region) of each, as `perturb_pair_into` takes them. They are the memory
    that a plan works on from now on, and must stay alive. All out_plus have one dtype, so have all out_minus and
    all weights; all are on one device. No output may overlap a weight.
    """

    def __init__(
        self, parts: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor, Region]]
    ) -> None:
        entries = []
        for out_plus, out_minus, weight, region in parts:
            planes, merged = plan(region, out_plus=out_plus, out_minus=out_minus, weight=weight)
            check_apart(out_plus=out_plus, out_minus=out_minus, weight=weight)
            if weight.numel():
                entries.append((planes, merged, True))
        _check_alike([planes for planes, _, _ in entries])
        self._parts = parts  # a table of addresses keeps nothing alive
        self._write = _backend(entries).pair_writer(entries) if entries else None

    def write(self, direction: Direction, eps: float) -> None:
        """Write all parts: the same bits as `perturb_pair_into` on each. ValueError unless eps is finite."""
        check_finite("eps", eps)
        if self._write is not None:
            self._write(direction, eps)


class UpdatePlan:
    """Several weights that move together.

    parts: (weight, region, whether decay applies) of each, as `accumulate_` takes them: of one dtype, on one
    device. They must stay alive.
    """

    def __init__(self, parts: Sequence[tuple[torch.Tensor, Region, bool]]) -> None:
        entries = []
        for weight, region, decays in parts:
            planes, merged = plan(region, weight=weight)
            if weight.numel():
                entries.append((planes, merged, decays))
        _check_alike([planes for planes, _, _ in entries])
        self._parts = parts
        self._move = _backend(entries).mover(entries) if entries else None

    def accumulate_(
        self,
        moves: Sequence[tuple[Direction, float]],
        rounding_seed: int | None = None,
        decay: float = 1.0,
    ) -> None:
        """Move all weights: the same bits, and errors, as `accumulate_` on each, with decay 1 where none applies."""
        check_moves(moves)
        if self._move is None:
            return
        check_rounding(self._parts[0][0], rounding_seed)
        if not 0 <= decay <= 1:
            raise ValueError(f"decay is a factor in [0, 1], not {decay}")
        self._move(moves, rounding_seed or 0, decay)


def _check_alike(rows: Sequence[Sequence[torch.Tensor]]) -> None:
    for planes in zip(*rows, strict=True):
        kinds = {(plane.dtype, plane.device) for plane in planes}
        if len(kinds) > 1:
            names = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
            raise ValueError(f"the tensors of a plan must be alike, but are {names}")


def _backend(entries: Sequence[tuple[list[torch.Tensor], Region, bool]]) -> ModuleType:
    if entries[0][0][0].is_cuda:
        from sglang_mezo_plugin.noise import cuda_plans as backend
    else:
        from sglang_mezo_plugin.noise import cpu as backend
    return backend
