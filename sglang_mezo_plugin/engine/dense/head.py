"""A head at W + eps z and at W - eps z, a block of the vocabulary at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from sglang_mezo_plugin.engine.dense.placement import Piece
from sglang_mezo_plugin.engine.dense.probes import Probe
from sglang_mezo_plugin.noise import Distribution, PairPlan


class PerturbedHead:
    """The blocks of a head. All are written to the same two buffers of bytes, one after the other.

    The plans are made here, and kept: a graph that writes the blocks again reads what they have in memory.
    """

    def __init__(
        self,
        parameter: torch.nn.Parameter,
        piece: Piece,
        buffers: tuple[torch.Tensor, torch.Tensor],
        distribution: Distribution,
    ) -> None:
        weight, region = piece.of(parameter.data), piece.region
        self._blocks: list[tuple[int, PairPlan, list[torch.Tensor]]] = []
        memory = [buffer.view(parameter.dtype) for buffer in buffers]
        rows = len(memory[0]) // region.cols
        for start in range(0, region.rows, rows):
            stop = min(start + rows, region.rows)
            sides = [m[: (stop - start) * region.cols].view(-1, region.cols) for m in memory]
            plan = PairPlan([(*sides, weight[start:stop], region.row_slice(start, stop))], distribution)
            self._blocks.append((region.offset // region.cols + start, plan, sides))

    def write(self, probe: Probe) -> Iterator[tuple[int, list[torch.Tensor]]]:
        """Yield each block (see `scoring.py`): its first token, and its weights at + and at -."""
        for first, plan, sides in self._blocks:
            probe.write_block(plan)
            yield first, sides
