"""Many tensors at once: checked when a plan is made, then written by one launch on a GPU."""

from collections.abc import Mapping, Sequence

import torch

from sglang_mezo_plugin.noise import backends
from sglang_mezo_plugin.noise.checks import check_apart, check_same_device, planes_of
from sglang_mezo_plugin.noise.region import Region
from sglang_mezo_plugin.noise.step_numbers import StepNumbers
from sglang_mezo_plugin.noise.values import (
    Distribution,
    Moves,
    check_decay,
    check_distribution,
    check_moves,
    check_probe,
    check_rounding,
)


class UpdatePlan:
    """Several weights that move together.

    parts: each weight, [rows, cols] or [cols], its region, and whether decay applies to it. All weights have
    one dtype and are on one device. A plan works on their memory from now on. distribution: of the noise.
    """

    def __init__(
        self, parts: Sequence[tuple[torch.Tensor, Region, bool]], distribution: Distribution
    ) -> None:
        self._prepare(
            [({"weight": weight}, region, decays) for weight, region, decays in parts], distribution
        )

    def _prepare(
        self, parts: Sequence[tuple[Mapping[str, torch.Tensor], Region, bool]], distribution: Distribution
    ) -> None:
        """Check all that stays the same. Tensors are named; the first of them is the weight."""
        check_distribution(distribution)
        entries = []
        for tensors, region, decays in parts:
            check_apart(**tensors)
            entries.append((*planes_of(region, **tensors), decays))
        for planes in zip(*(planes for planes, _, _ in entries), strict=True):
            kinds = {f"{plane.dtype} on {plane.device}" for plane in planes}
            if len(kinds) > 1:
                raise ValueError(f"the tensors of a plan must be alike, but are {', '.join(sorted(kinds))}")
        self._weights = [planes[0] for planes, _, _ in entries]
        # Kept here: a GPU has addresses alone, which would not keep the tensors alive.
        self._entries = [entry for entry in entries if entry[0][0].numel()]
        self._tensors = None
        if self._entries:
            backend = backends.backend_of(self._entries[0][0][0])
            self._tensors = backend.MultiTensor(self._entries, distribution)

    def accumulate_(self, moves: Moves, rounding_seed: int | None = None, decay: float = 1.0) -> None:
        """Set each weight to decay * weight + sum(c * z for (seed of z, c) in moves), in one pass, in place.

        decay * weight is formed in fp32, with a decay of 1 where none applies; then each move is added in
        turn, by a fused multiply-add. Moves may be empty.

        An fp32 weight takes the result as it is. An fp16 or bf16 weight takes one of its two neighbours, at
        random so that the expectation is the result: an update below half a unit in the last place, which
        rounding to nearest would lose, counts on average. The random words are those of `rounding_seed`
        (0 <= rounding_seed < 2**64), in a stream of their own: the seed of a direction will do. Give each
        step another one. A finite result beyond the dtype's largest value becomes that value; infinities and
        NaN stay.

        decay: factor on the weight, in [0, 1]; for weight decay, 1 - lr * lambda.
        """
        self._check_update(moves, rounding_seed, decay)
        if self._tensors is not None:
            self._tensors.run(None, 0.0, moves, rounding_seed or 0, decay)

    def _check_update(self, moves: Moves, rounding_seed: int | None, decay: float) -> None:
        check_decay(decay)
        check_moves(moves)
        for weight in self._weights[:1]:
            check_rounding(weight.dtype, rounding_seed)


class PairPlan(UpdatePlan):
    """Weights, and where W + eps z and W - eps z of each are to be written.

    parts: (out_plus, out_minus, weight, region) of each: three tensors of the region's shape that do not
    overlap. All out_plus have one dtype, so have all out_minus and all weights; all are on one device. A plan
    works on their memory from now on. decays: whether decay applies to each weight; left out, it does.
    """

    def __init__(
        self,
        parts: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor, Region]],
        distribution: Distribution,
        decays: Sequence[bool] | None = None,
    ) -> None:
        decays = [True] * len(parts) if decays is None else decays
        self._prepare(
            [
                ({"weight": weight, "out_plus": out_plus, "out_minus": out_minus}, region, decayed)
                for (out_plus, out_minus, weight, region), decayed in zip(parts, decays, strict=True)
            ],
            distribution,
        )

    def write(self, seed: int, eps: float) -> None:
        """Write all pairs: a fused multiply-add in fp32, rounded to nearest; z is evaluated once for both.

        eps: finite; it has the weights' unit, since z has none.
        """
        check_probe(seed, eps)
        if self._tensors is not None:
            self._tensors.run(seed, eps, None, 0, 1.0)

    def move_and_write(
        self, seed: int, eps: float, moves: Moves, rounding_seed: int | None, decay: float = 1.0
    ) -> None:
        """Move all weights, then write their pairs: the bits of `accumulate_` and `write`, in one pass."""
        check_probe(seed, eps)
        self._check_update(moves, rounding_seed, decay)
        if self._tensors is not None:
            self._tensors.run(seed, eps, moves, rounding_seed or 0, decay)

    def write_from(self, numbers: StepNumbers) -> None:
        """Do as `write`, with the seed and eps that are in memory when the launch runs.

        The same bits; no number is the host's, so that a graph may launch it again. ValueError for numbers
        on another device.
        """
        self._run_from(numbers, moves=False)

    def move_and_write_from(self, numbers: StepNumbers) -> None:
        """Do as `move_and_write`, by the numbers in memory alone: see `write_from`."""
        self._run_from(numbers, moves=True)

    def _run_from(self, numbers: StepNumbers, moves: bool) -> None:
        for weight in self._weights[:1]:
            check_same_device(numbers=numbers.words, weights=weight)
        if self._tensors is not None:
            self._tensors.run_from(numbers, moves)
