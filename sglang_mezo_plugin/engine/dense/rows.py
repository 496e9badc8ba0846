"""Rows of an embedding's table at W + eps z and at W - eps z: only those that are looked up are made."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from sglang_mezo_plugin.engine.dense.placement import Piece
from sglang_mezo_plugin.engine.dense.probes import Probe
from sglang_mezo_plugin.noise import Distribution


class PerturbedRows(TorchFunctionMode):
    """Answers the look-ups in one table: the first with rows at +, the second with those at -.

    Both halves look up the same rows.
    """

    def __init__(
        self, table: torch.nn.Parameter, piece: Piece, distribution: Distribution, probe: Probe
    ) -> None:
        super().__init__()
        self._table, self._piece, self._distribution, self._probe = table, piece, distribution, probe
        self._minus: torch.Tensor | None = None
        self.answered = 0

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is not F.embedding or args[1] is not self._table:
            return func(*args, **(kwargs or {}))
        self.answered += 1
        if self._minus is not None:
            return self._minus
        rows = args[0].reshape(-1)
        plus, minus = (self._table.new_empty(len(rows), self._piece.region.cols) for _ in range(2))
        weight = self._piece.of(self._table.data)
        self._probe.gather(plus, minus, weight, rows, self._piece.region, self._distribution)
        shape = (*args[0].shape, -1)
        self._minus = minus.view(shape)
        return plus.view(shape)
