"""Many tensors at once: checked when a plan is made, then written by one launch on a GPU."""

from collections.abc import Mapping, Sequence

import torch

from sglang_mezo_plugin.noise import backends
from sglang_mezo_plugin.noise.checks import check_apart, check_same_device, planes_of
from sglang_mezo_plugin.noise.region import Region
from sglang_mezo_plugin.noise.step_numbers import StepNumbers
from sglang_mezo_plugin.noise.values import Distribution, check_distribution


class UpdatePlan:
    """Several weights that move together.

    parts: each weight, [rows, cols] or [cols], its region, and whether decay applies to it. All weights have
    one dtype and are on one device. A plan works on their memory from now on. distribution: of the noise.

    Its methods raise ValueError for numbers on another device.
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

    def accumulate_(self, numbers: StepNumbers) -> None:
        """Set each weight to decay * weight + sum(c * z for (seed of z, c) in moves), in one pass, in place.

        decay * weight is formed in fp32, with a decay of 1 where none applies; then each move is added in
        turn, by a fused multiply-add. Moves may be empty.

        An fp32 weight takes the result as it is. An fp16 or bf16 weight takes one of its two neighbours, at
        random so that the expectation is the result: an update below half a unit in the last place, which
        rounding to nearest would lose, counts on average. The random words are those of the rounding seed,
        in a stream of their own: the seed of a direction will do. Give each step another one. A finite
        result beyond the dtype's largest value becomes that value; infinities and NaN stay.

        decay: factor on the weight, in [0, 1]; for weight decay, 1 - lr * lambda.
        """
        self._run(numbers, moves=True, writes=False)

    def _run(self, numbers: StepNumbers, moves: bool, writes: bool) -> None:
        for weight in self._weights[:1]:
            check_same_device(numbers=numbers.words, weights=weight)
        if self._tensors is not None:
            self._tensors.run(numbers, moves, writes)


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

    def write(self, numbers: StepNumbers) -> None:
        """Write all pairs: a fused multiply-add in fp32, rounded to nearest; z is evaluated once for both."""
        self._run(numbers, moves=False, writes=True)

    def move_and_write(self, numbers: StepNumbers) -> None:
        """Move all weights, then write their pairs: the bits of `accumulate_` and `write`, in one pass."""
        self._run(numbers, moves=True, writes=True)
