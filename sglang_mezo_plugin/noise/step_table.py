"""The numbers of a step in a device's memory: kernels that a graph launches again cannot be given others."""

from collections.abc import Sequence

import numpy as np
import torch

from sglang_mezo_plugin.noise.checks import check_decay, check_finite, check_moves
from sglang_mezo_plugin.noise.region import Direction, Distribution, check_seed

ROOM = 64  # moves, unless told otherwise
# Words of a table. Seeds take two, the low half first; eps, decay and coefficients are the bits of an fp32.
SEED, EPS, COUNT, ROUNDING, DECAY, MOVING, MOVES = 0, 2, 3, 4, 6, 7, 8
MOVE_WORDS = 3  # of each move: its seed, its coefficient


class StepTable:
    """Where weights are probed, and how they move before that.

    device: of the weights. distribution: of all directions; kernels are compiled for it. room: moves that it
    has place for. words: int32 [8 + 3 * room] on the device; always the same memory.
    """

    def __init__(
        self, device: torch.device | str, distribution: Distribution = "gaussian", room: int = ROOM
    ) -> None:
        self.distribution, self.room = distribution, room
        self.words = torch.empty(MOVES + MOVE_WORDS * room, dtype=torch.int32, device=device)
        self.set(Direction(0, distribution), 0.0)

    def fits(self, moves: Sequence[tuple[Direction, float]]) -> bool:
        """Whether `set` takes these moves: few enough, and all of this table's distribution."""
        return len(moves) <= self.room and all(z.distribution == self.distribution for z, _ in moves)

    def set(
        self,
        direction: Direction,
        eps: float,
        moves: Sequence[tuple[Direction, float]] = (),
        rounding_seed: int | None = None,
        decay: float = 1.0,
    ) -> None:
        """Write the arguments of `PairPlan.move_and_write`, by one copy that the host does not wait for.

        Without moves, and with decay 1, weights stay as they are. ValueError for what the functions of this
        package refuse, for moves that do not fit, for a direction of another distribution, and for weights
        that are to move without a rounding_seed.
        """
        moving = bool(moves) or decay != 1
        check_finite("eps", eps)
        check_decay(decay)
        check_moves([*moves, (direction, 0.0)])
        if direction.distribution != self.distribution or not self.fits(moves):
            raise ValueError(f"the table is for {self.room} moves at most, all {self.distribution}")
        if moving and rounding_seed is None:
            raise ValueError("weights that move from a table need a rounding_seed")
        if rounding_seed is not None:
            check_seed("rounding_seed", rounding_seed)
        words = [*_halves(direction.seed), _bits(eps), len(moves)]
        words += [*_halves(rounding_seed or 0), _bits(decay), moving]
        for z, coefficient in moves:
            words += [*_halves(z.seed), _bits(coefficient)]
        host = torch.from_numpy(np.array(words, np.uint32).view(np.int32))
        if self.words.is_cuda:
            host = host.pin_memory()
        self.words[: len(words)].copy_(host, non_blocking=True)

    def numbers(
        self,
    ) -> tuple[Direction, float, list[tuple[Direction, float]] | None, int, float]:
        """Return what the words of a table on the CPU say: direction, eps, moves, rounding seed, decay.

        The moves are None if weights stay as they are.
        """
        words = self.words.numpy().view(np.uint32)
        moves = [
            (self._direction(words, at), _value(words[at + 2]))
            for at in range(MOVES, MOVES + MOVE_WORDS * int(words[COUNT]), MOVE_WORDS)
        ]
        rounding_seed = self._direction(words, ROUNDING).seed
        moving = moves if words[MOVING] else None
        return self._direction(words, SEED), _value(words[EPS]), moving, rounding_seed, _value(words[DECAY])

    def _direction(self, words: np.ndarray, at: int) -> Direction:
        return Direction(int(words[at]) | int(words[at + 1]) << 32, self.distribution)


def _halves(seed: int) -> tuple[int, int]:
    return seed & 0xFFFFFFFF, seed >> 32


def _bits(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


def _value(bits: np.uint32) -> float:
    return float(bits.view(np.float32))
