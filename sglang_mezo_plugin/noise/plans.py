"""Many tensors at once: checked when a plan is made, then written by one launch on a GPU."""

from collections.abc import Sequence
from types import ModuleType

import torch

from sglang_mezo_plugin.noise.checks import (
    check_apart,
    check_decay,
    check_finite,
    check_moves,
    check_rounding,
    check_same_device,
    plan,
)
from sglang_mezo_plugin.noise.region import Direction, Region
from sglang_mezo_plugin.noise.step_table import StepTable

Moves = Sequence[tuple[Direction, float]]


class UpdatePlan:
    """Several weights that move together.

    parts: (weight, region, whether decay applies) of each, as `accumulate_` takes them: of one dtype, on one
    device. A plan works on their memory from now on.
    """

    def __init__(self, parts: Sequence[tuple[torch.Tensor, Region, bool]]) -> None:
        entries = [(*plan(region, weight=weight), decays) for weight, region, decays in parts]
        self._plan = _Plan([weight for weight, _, _ in parts], entries)

    def accumulate_(self, moves: Moves, rounding_seed: int | None = None, decay: float = 1.0) -> None:
        """Move all weights: the bits and the errors of `accumulate_`, with decay 1 where none applies."""
        self._plan.run(None, 0.0, moves, rounding_seed, decay)


class PairPlan:
    """Where W + eps z and W - eps z of several tensors are to be written.

    parts: (out_plus, out_minus, weight, region) of each, as `perturb_pair_into` takes them. All out_plus have
    one dtype, so have all out_minus and all weights; all are on one device. A plan works on their memory from
    now on. decays: whether decay applies to each, where weights are moved; left out, it does.
    """

    def __init__(
        self,
        parts: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor, Region]],
        decays: Sequence[bool] | None = None,
    ) -> None:
        entries = []
        decays = [True] * len(parts) if decays is None else decays
        for (out_plus, out_minus, weight, region), decayed in zip(parts, decays, strict=True):
            planes = {"weight": weight, "out_plus": out_plus, "out_minus": out_minus}
            check_apart(**planes)
            entries.append((*plan(region, **planes), decayed))
        self._plan = _Plan([weight for _, _, weight, _ in parts], entries)

    def write(self, direction: Direction, eps: float) -> None:
        """Write all pairs: the bits of `perturb_pair_into`. ValueError unless eps is finite."""
        self._plan.run(direction, eps, None, None, 1.0)

    def accumulate_(self, moves: Moves, rounding_seed: int | None = None, decay: float = 1.0) -> None:
        """Move all weights, as `UpdatePlan.accumulate_`."""
        self._plan.run(None, 0.0, moves, rounding_seed, decay)

    def move_and_write(
        self, direction: Direction, eps: float, moves: Moves, rounding_seed: int | None, decay: float = 1.0
    ) -> None:
        """Move all weights, then write their pairs: the bits of `accumulate_` and `write`, in one pass.

        The directions of moves have the distribution of `direction`; ValueError if not.
        """
        check_moves([*moves, (direction, 0.0)])
        self._plan.run(direction, eps, moves, rounding_seed, decay)

    def write_from(self, table: StepTable) -> None:
        """Do as `write`, with the direction and eps that a table holds when the launch runs.

        The same bits; no number is the host's, so that a graph may launch it again. ValueError for a table
        on another device.
        """
        self._plan.run_from(table, moves=False)

    def move_and_write_from(self, table: StepTable) -> None:
        """Do as `move_and_write`, by a table's numbers alone: see `write_from`."""
        self._plan.run_from(table, moves=True)


class _Plan:
    """Checks what changes from call to call, and hands the rest to the backend."""

    def __init__(
        self, weights: Sequence[torch.Tensor], entries: Sequence[tuple[list[torch.Tensor], Region, bool]]
    ) -> None:
        for planes in zip(*(planes for planes, _, _ in entries), strict=True):
            kinds = {f"{plane.dtype} on {plane.device}" for plane in planes}
            if len(kinds) > 1:
                raise ValueError(f"the tensors of a plan must be alike, but are {', '.join(sorted(kinds))}")
        entries = [entry for entry in entries if entry[0][0].numel()]
        self._weights, self._entries = weights, entries  # a table of addresses would not keep them alive
        self._plan = _backend(entries[0][0][0]).Plan(entries) if entries else None

    def run(
        self,
        direction: Direction | None,
        eps: float,
        moves: Moves | None,
        rounding_seed: int | None,
        decay: float,
    ) -> None:
        check_finite("eps", eps)
        check_decay(decay)
        if moves is not None:
            check_moves(moves)
            for weight in self._weights[:1]:
                check_rounding(weight, rounding_seed)
        if self._plan is not None:
            self._plan.run(direction, eps, moves, rounding_seed or 0, decay)

    def run_from(self, table: StepTable, moves: bool) -> None:
        for weight in self._weights[:1]:
            check_same_device(table=table.words, weights=weight)
        if self._plan is not None:
            self._plan.run_from(table, moves)


def _backend(weight: torch.Tensor) -> ModuleType:
    if weight.is_cuda:
        from sglang_mezo_plugin.noise.cuda import plans as backend
    else:
        from sglang_mezo_plugin.noise.cpu import kernels as backend
    return backend
