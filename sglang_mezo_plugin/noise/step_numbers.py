"""The numbers of a step in a device's memory, where kernels read them: also when a graph runs them again."""

import numpy as np
import torch

from sglang_mezo_plugin.noise.values import Moves, check_decay, check_moves, check_probe, check_seed

ROOM = 64  # moves, unless told otherwise
# Words. Seeds take two, the low half first; eps, decay and coefficients are the bits of an fp32.
SEED, EPS, COUNT, ROUNDING, DECAY, MOVING, MOVES = 0, 2, 3, 4, 6, 7, 8
MOVE_WORDS = 3  # of each move: its seed, its coefficient


class StepNumbers:
    """Where weights are probed, and how they move before that.

    device: of the weights. room: moves that there is place for. words: int32 [8 + 3 * room] on the device;
    always the same memory. At first the seed and eps are 0, and weights stay as they are.
    """

    def __init__(self, device: torch.device | str, room: int = ROOM) -> None:
        self.room = room
        self.words = torch.zeros(MOVES + MOVE_WORDS * room, dtype=torch.int32, device=device)

    @classmethod
    def moving(
        cls, device: torch.device | str, moves: Moves, rounding_seed: int, decay: float = 1.0
    ) -> "StepNumbers":
        """Return the numbers of weights that move and are not probed, with room for just these moves."""
        numbers = cls(device, len(moves))
        numbers.set(0, 0.0, moves, rounding_seed, decay)
        return numbers

    def set(
        self,
        seed: int,
        eps: float,
        moves: Moves = (),
        rounding_seed: int | None = None,
        decay: float = 1.0,
    ) -> None:
        """Write where to probe, and how to move, by one copy that the host does not wait for.

        seed: of z. eps: finite; it has the weights' unit, since z has none. moves, rounding_seed, decay: see
        `UpdatePlan.accumulate_`. Without moves, and with decay 1, weights stay as they are. ValueError for
        other seeds than those in [0, 2**64), for coefficients that are not finite in fp32, for a decay
        outside [0, 1], for more moves than there is room for, and for moves without a rounding_seed.
        """
        moving = bool(moves) or decay != 1
        check_probe(seed, eps)
        check_decay(decay)
        check_moves(moves)
        if len(moves) > self.room:
            raise ValueError(f"there is room for {self.room} moves, not for {len(moves)}")
        if moving and rounding_seed is None:
            raise ValueError("weights that move need a rounding_seed")
        if rounding_seed is not None:
            check_seed("rounding_seed", rounding_seed)
        words = [*seed_words(seed), _bits(eps), len(moves)]
        words += [*seed_words(rounding_seed or 0), _bits(decay), moving]
        for move, coefficient in moves:
            words += [*seed_words(move), _bits(coefficient)]
        host = torch.from_numpy(np.array(words, np.uint32).view(np.int32))
        if self.words.is_cuda:
            host = host.pin_memory()
        self.words[: len(words)].copy_(host, non_blocking=True)

    def read(self) -> tuple[int, float, list[tuple[int, float]] | None, int, float]:
        """Return what the words say, on the CPU: seed, eps, moves, rounding seed, decay.

        The moves are None if weights stay as they are.
        """
        words = self.words.numpy().view(np.uint32)
        moves = [
            (_seed(words, at), _value(words[at + 2]))
            for at in range(MOVES, MOVES + MOVE_WORDS * int(words[COUNT]), MOVE_WORDS)
        ]
        moving = moves if words[MOVING] else None
        return _seed(words, SEED), _value(words[EPS]), moving, _seed(words, ROUNDING), _value(words[DECAY])


def seed_words(seed: int) -> tuple[int, int]:
    """Return the low and the high 32 bits of a seed."""
    return seed & 0xFFFFFFFF, seed >> 32


def _seed(words: np.ndarray, at: int) -> int:
    return int(words[at]) | int(words[at + 1]) << 32


def _bits(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


def _value(bits: np.uint32) -> float:
    return float(bits.view(np.float32))
