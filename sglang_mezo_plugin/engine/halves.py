"""Runs each module of a model twice: with W + eps z on half of the tokens, with W - eps z on the others.

The weights stay where they are. A module's parameters point into a scratch buffer while it runs, and back to
their own memory before the next one does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from sglang.srt.layers.vocab_parallel_embedding import VocabParallelEmbedding
from torch.overrides import TorchFunctionMode

from sglang_mezo_plugin.engine.checkpoints import Piece, Pieces
from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.noise import Direction, gather_pair_into, perturb_pair_into

EMBEDDINGS = (VocabParallelEmbedding, torch.nn.Embedding)
HEAD_BLOCK = 1 << 24  # elements of the head that are perturbed at a time, at least
ALIGNMENT = 256  # bytes, as an allocator would have it


class Halves:
    """Takes the place of the `forward` of every module with weights of its own.

    Outside `at`, modules run as ever. Raises UserError for a model whose weights cannot be swapped so.
    """

    def __init__(self, model: torch.nn.Module, pieces: Pieces) -> None:
        self._pieces = pieces
        self._direction: Direction | None = None
        self._eps = 0.0
        self._tokens = 0
        self._unused = set(pieces)
        sizes = []
        for name, module in model.named_modules():
            own = [p for p in module.parameters(recurse=False) if p in pieces]
            if not own:
                continue
            if any(True for child in module.children() for _ in child.parameters()):
                raise UserError(f"{name} has weights of its own beside those of its parts: use --mode lora")
            run = self._run_embedding if isinstance(module, EMBEDDINGS) else self._run
            module.forward = partial(run, name, module.forward, own)
            if not isinstance(module, EMBEDDINGS):
                sizes.append(sum(map(_padded_bytes, own)))
        table = max(pieces, key=torch.Tensor.numel)
        sizes.append(min(_padded_bytes(table), HEAD_BLOCK * table.element_size()))
        self._scratch = [torch.empty(max(sizes), dtype=torch.uint8, device=table.device) for _ in range(2)]

    @contextmanager
    def at(self, direction: Direction, eps: float, tokens: int) -> Iterator[None]:
        """Let modules run on halves of `tokens` tokens each.

        Raises UserError at the end of the first time if there is a weight that no module has used: its
        perturbation would have had no effect.
        """
        self._direction, self._eps, self._tokens = direction, eps, tokens
        try:
            yield
        finally:
            self._direction = None
        if self._unused:
            names = sorted({piece.name for parameter in self._unused for piece in self._pieces[parameter]})
            raise UserError(f"{', '.join(names)}: no module's forward reads them: use --mode lora")

    def head_blocks(self, lm_head: torch.nn.Module) -> Iterator[tuple[int, list[torch.Tensor]]]:
        """Yield the first row of each block of the head, and its weights at + and - (see `scoring.py`)."""
        parameter = lm_head.weight
        (piece,) = self._pieces[parameter]
        self._unused.discard(parameter)
        weight, region = piece.of(parameter), piece.region
        buffers = [buffer.view(parameter.dtype) for buffer in self._scratch]
        rows = len(buffers[0]) // region.cols
        for start in range(0, region.rows, rows):
            stop = min(start + rows, region.rows)
            plus, minus = (b[: (stop - start) * region.cols].view(-1, region.cols) for b in buffers)
            part = region.row_slice(start, stop)
            perturb_pair_into(plus, minus, weight[start:stop], self._direction, part, self._eps)
            yield start, [plus, minus]

    def _run(
        self,
        name: str,
        forward: Callable[..., Any],
        parameters: Sequence[torch.nn.Parameter],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        if self._direction is None:
            return forward(*args, **kwargs)
        self._unused.difference_update(parameters)
        own = [parameter.data for parameter in parameters]
        plus, minus = self._perturbed(parameters)
        outputs = []
        try:
            for half, values in enumerate((plus, minus)):
                for parameter, value in zip(parameters, values, strict=True):
                    parameter.data = value
                outputs.append(forward(*self._half(args, half), **self._half(kwargs, half)))
        finally:
            for parameter, value in zip(parameters, own, strict=True):
                parameter.data = value
        return self._joined(name, *outputs)

    def _run_embedding(
        self,
        name: str,
        forward: Callable[..., Any],
        parameters: Sequence[torch.nn.Parameter],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        if self._direction is None:
            return forward(*args, **kwargs)
        self._unused.difference_update(parameters)
        (parameter,) = parameters
        (piece,) = self._pieces[parameter]
        with _PerturbedRows(parameter, piece, self._direction, self._eps):
            outputs = [forward(*self._half(args, half), **self._half(kwargs, half)) for half in (0, 1)]
        return self._joined(name, *outputs)

    def _perturbed(
        self, parameters: Sequence[torch.nn.Parameter]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return the parameters at + and at -, in the scratch buffers."""
        plus, minus, offset = [], [], 0
        for parameter in parameters:
            size = parameter.numel() * parameter.element_size()
            for values, buffer in zip((plus, minus), self._scratch, strict=True):
                flat = buffer[offset : offset + size].view(parameter.dtype)
                values.append(flat.as_strided(parameter.shape, parameter.stride(), flat.storage_offset()))
            offset += _padded_bytes(parameter)
            pieces = self._pieces[parameter]
            if sum(piece.region.rows * piece.region.cols for piece in pieces) < parameter.numel():
                plus[-1].copy_(parameter.data)  # padding
                minus[-1].copy_(parameter.data)
            for piece in pieces:
                perturb_pair_into(
                    piece.of(plus[-1]),
                    piece.of(minus[-1]),
                    piece.of(parameter.data),
                    self._direction,
                    piece.region,
                    self._eps,
                )
        return plus, minus

    def _half(self, values: Any, half: int) -> Any:
        """Return arguments with each tensor of all tokens cut down to one half of them."""
        if isinstance(values, torch.Tensor) and values.dim() and values.shape[0] == 2 * self._tokens:
            return values[half * self._tokens : (half + 1) * self._tokens]
        if isinstance(values, tuple | list):
            return type(values)(self._half(value, half) for value in values)
        if isinstance(values, Mapping):
            return {key: self._half(value, half) for key, value in values.items()}
        return values

    def _joined(self, name: str, plus: Any, minus: Any) -> Any:
        if isinstance(plus, tuple):
            return tuple(self._joined(name, *pair) for pair in zip(plus, minus, strict=True))
        if plus is None:
            return None
        if len(plus) != self._tokens:
            raise UserError(f"{name} returns something else than a row a token: use --mode lora")
        return torch.cat((plus, minus))


class _PerturbedRows(TorchFunctionMode):
    """Answers the look-ups in one table: the first with rows at +, the second with those at -.

    Both halves look up the same rows.
    """

    def __init__(self, table: torch.nn.Parameter, piece: Piece, direction: Direction, eps: float) -> None:
        super().__init__()
        self._table, self._piece, self._direction, self._eps = table, piece, direction, eps
        self._minus: torch.Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is not F.embedding or args[1] is not self._table:
            return func(*args, **(kwargs or {}))
        if self._minus is not None:
            return self._minus
        rows = args[0].reshape(-1)
        plus, minus = (self._table.new_empty(len(rows), self._piece.region.cols) for _ in range(2))
        weight = self._piece.of(self._table.data)
        gather_pair_into(plus, minus, weight, rows, self._direction, self._piece.region, self._eps)
        shape = (*args[0].shape, -1)
        self._minus = minus.view(shape)
        return plus.view(shape)


def _padded_bytes(parameter: torch.Tensor) -> int:
    size = parameter.numel() * parameter.element_size()
    return -(-size // ALIGNMENT) * ALIGNMENT
