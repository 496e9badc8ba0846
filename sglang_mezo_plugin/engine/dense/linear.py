"""A linear layer that multiplies each half of the tokens by weights of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from sglang.srt.layers.quantization.base_config import LinearMethodBase
from sglang.srt.layers.quantization.unquant import UnquantizedLinearMethod


class LinearOnHalves(LinearMethodBase):
    """Takes the place of a layer's method, and writes each product straight into its half of the output.

    values: each parameter, and what it is at + and at -. prepare: returns the sides to compute, or none.
    check_tokens: is told on how many rows the layer works.
    """

    def __init__(
        self,
        method: UnquantizedLinearMethod,
        values: list[tuple[torch.nn.Parameter, torch.Tensor, torch.Tensor]],
        prepare: Callable[[], list[slice]],
        check_tokens: Callable[[int], None],
    ) -> None:
        self._method, self._prepare, self._check_tokens = method, prepare, check_tokens
        self._values = {id(parameter): (plus.t(), minus.t()) for parameter, plus, minus in values}

    def create_weights(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("the weights exist already")

    def apply(
        self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        if not (sides := self._prepare()):
            return self._method.apply(layer, x, bias)
        self._check_tokens(len(x))
        output = x.new_empty(len(x), len(layer.weight))
        weights = self._values.get(id(layer.weight)) or (layer.weight.t(),) * 2
        biases = self._values.get(id(bias), (bias, bias))
        for tokens, weight, shift in zip(sides, weights, biases, strict=False):
            if shift is None:
                torch.mm(x[tokens], weight, out=output[tokens])
            else:
                torch.addmm(shift, x[tokens], weight, out=output[tokens])
        return output
