"""Runs each module of a model twice: with W + eps z on half of the tokens, with W - eps z on the others.

The weights stay where they are while they are probed. A linear layer multiplies each half of its input by
weights made in a scratch buffer just before; any other module runs with its parameters pointing there, and
back to their own memory before the next one does. Norms are small: theirs are made all at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from sglang.srt.layers.linear import LinearBase
from sglang.srt.layers.quantization.base_config import LinearMethodBase
from sglang.srt.layers.quantization.unquant import UnquantizedLinearMethod
from sglang.srt.layers.vocab_parallel_embedding import VocabParallelEmbedding
from torch.overrides import TorchFunctionMode

from sglang_mezo_plugin.engine.checkpoints import Piece, Pieces
from sglang_mezo_plugin.engine.perturbed import Perturbed, Update, bytes_of
from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.noise import Direction, UpdatePlan, gather_pair_into, perturb_pair_into

EMBEDDINGS = (VocabParallelEmbedding, torch.nn.Embedding)
HEAD_BLOCK = 1 << 24  # elements of the head that are perturbed at a time, at least


class Halves:
    """Takes the place of what computes with the weights of each module that has some.

    Outside `at`, modules run as ever. Raises UserError for a model whose weights cannot be perturbed so.
    """

    def __init__(self, model: torch.nn.Module, pieces: Pieces) -> None:
        self._pieces = pieces
        self._direction: Direction | None = None
        self._eps = 0.0
        self._sides: list[slice] = []
        self._unused = set(pieces)
        linear: dict[str, list[torch.nn.Parameter]] = {}
        norms: dict[str, list[torch.nn.Parameter]] = {}
        tables: dict[torch.nn.Parameter, None] = {}
        modules = dict(model.named_modules())
        seen: set[torch.nn.Parameter] = set()
        for name, module in modules.items():
            own = [p for p in module.parameters(recurse=False) if p in pieces]
            if not own:
                continue
            if any(True for child in module.children() for _ in child.parameters()):
                raise UserError(f"{name} has weights of its own beside those of its parts: use --mode lora")
            if isinstance(module, EMBEDDINGS):
                tables |= dict.fromkeys(own)
                module.forward = partial(self._run_embedding, name, module.forward, own[0])
                if isinstance(module, VocabParallelEmbedding):
                    # A shard is looked up by a kernel of its own on CUDA, which reads the table itself.
                    module._use_triton_embedding = lambda input_: False
                continue
            if not seen.isdisjoint(own):
                raise UserError(f"{name} shares its weights with another module: use --mode lora")
            seen.update(own)
            (norms if all(p.dim() == 1 for p in own) else linear)[name] = own
        self._tables = UpdatePlan(
            [
                (piece.of(table.data), piece.region, piece.decays)
                for table in tables
                for piece in pieces[table]
            ]
        )
        head = max((min(table.numel(), HEAD_BLOCK) * table.element_size() for table in tables), default=0)
        self._scratch = self._buffers(max([head, *map(bytes_of, linear.values())]))
        self._linear = [Perturbed(own, pieces, self._scratch) for own in linear.values()]
        for name, weights in zip(linear, self._linear, strict=True):
            self._replace(name, modules[name], weights.parameters, weights.plus, weights.minus, weights)
        small = [parameter for own in norms.values() for parameter in own]
        self._norms = Perturbed(small, pieces, self._buffers(bytes_of(small)))
        first = 0
        for name, own in norms.items():
            plus, minus = (side[first : first + len(own)] for side in (self._norms.plus, self._norms.minus))
            self._replace(name, modules[name], own, plus, minus, None)
            first += len(own)

    @contextmanager
    def at(self, direction: Direction, eps: float, tokens: int, mirrored: bool = True) -> Iterator[None]:
        """Let modules run at + eps on the first `tokens` tokens, and, if mirrored, at - eps on as many more.

        Raises UserError at the end of the first time if there is a weight that no module has used: its
        perturbation would have had no effect.
        """
        self._direction, self._eps = direction, eps
        self._sides = [slice(0, tokens), slice(tokens, 2 * tokens)][: 1 + mirrored]
        try:
            self._norms.write(direction, eps)
            yield
        finally:
            self._direction = None
        if self._unused:
            names = sorted({piece.name for parameter in self._unused for piece in self._pieces[parameter]})
            raise UserError(f"{', '.join(names)}: no module's forward reads them: use --mode lora")

    def step(self, update: Update) -> None:
        """Move all weights: tables now, others when they are perturbed next, or by `settle`."""
        self._tables.accumulate_(update.moves, update.rounding_seed, update.decay)
        for weights in (self._norms, *self._linear):
            weights.wait(update)

    def settle(self) -> None:
        """Let every weight be what the steps so far make of it."""
        for weights in (self._norms, *self._linear):
            weights.settle()

    def head_blocks(self, lm_head: torch.nn.Module) -> Iterator[tuple[int, list[torch.Tensor]]]:
        """Yield each block of the head (see `scoring.py`): its first token, and its weights on each side."""
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
            yield region.offset // region.cols + start, [plus, minus][: len(self._sides)]

    def _buffers(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        device = next(iter(self._pieces)).device
        return tuple(torch.empty(size, dtype=torch.uint8, device=device) for _ in range(2))

    def _replace(
        self,
        name: str,
        module: torch.nn.Module,
        parameters: list[torch.nn.Parameter],
        plus: list[torch.Tensor],
        minus: list[torch.Tensor],
        weights: Perturbed | None,
    ) -> None:
        """Let a module compute with its values on each side. weights: to be written each time, or None."""
        values = list(zip(parameters, plus, minus, strict=True))
        prepare = partial(self._prepare, parameters, weights)
        if isinstance(module, LinearBase) and type(module.quant_method) is UnquantizedLinearMethod:
            module.quant_method = _LinearOnHalves(self, name, module.quant_method, values, prepare)
        else:
            module.forward = partial(self._run, name, module.forward, values, prepare)

    def _prepare(self, parameters: list[torch.nn.Parameter], weights: Perturbed | None) -> list[slice]:
        """Return the sides to compute, or none outside `at`; before that, write the values of both."""
        if self._direction is None:
            return []
        self._unused.difference_update(parameters)
        if weights is not None:
            weights.write(self._direction, self._eps)
        return self._sides

    def _run(
        self,
        name: str,
        forward: Callable[..., Any],
        values: list[tuple[torch.nn.Parameter, torch.Tensor, torch.Tensor]],
        prepare: Callable[[], list[slice]],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        if not (sides := prepare()):
            return forward(*args, **kwargs)
        own = [parameter.data for parameter, _, _ in values]
        outputs = []
        try:
            for side, tokens in enumerate(sides):
                for parameter, *both in values:
                    parameter.data = both[side]
                outputs.append(forward(*self._part(args, tokens), **self._part(kwargs, tokens)))
        finally:
            for (parameter, _, _), value in zip(values, own, strict=True):
                parameter.data = value
        return self._joined(name, outputs)

    def _run_embedding(
        self,
        name: str,
        forward: Callable[..., Any],
        parameter: torch.nn.Parameter,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        if not (sides := self._prepare([parameter], None)):
            return forward(*args, **kwargs)
        (piece,) = self._pieces[parameter]
        with _PerturbedRows(parameter, piece, self._direction, self._eps) as rows:
            outputs = [forward(*self._part(args, side), **self._part(kwargs, side)) for side in sides]
        if rows.answered != len(sides):
            raise UserError(f"{name} does not look its rows up one by one: use --mode lora")
        return self._joined(name, outputs)

    def _part(self, values: Any, tokens: slice) -> Any:
        """Return arguments with each tensor of all tokens cut down to some of them."""
        if isinstance(values, torch.Tensor) and values.dim() and len(values) == self._sides[-1].stop:
            return values[tokens]
        if isinstance(values, tuple | list):
            return type(values)(self._part(value, tokens) for value in values)
        if isinstance(values, Mapping):
            return {key: self._part(value, tokens) for key, value in values.items()}
        return values

    def _joined(self, name: str, outputs: list[Any]) -> Any:
        if len(outputs) == 1:
            return outputs[0]
        if isinstance(outputs[0], tuple):
            return tuple(self._joined(name, list(parts)) for parts in zip(*outputs, strict=True))
        if outputs[0] is None:
            return None
        self.check_tokens(name, 2 * len(outputs[0]))
        return torch.cat(outputs)

    def check_tokens(self, name: str, tokens: int) -> None:
        """Raise UserError for a module that does not work on one row a token."""
        if tokens != self._sides[-1].stop:
            raise UserError(f"{name} works on something else than a row a token: use --mode lora")


class _LinearOnHalves(LinearMethodBase):
    """Multiplies each half of the tokens by weights of its own, straight into its half of the output."""

    def __init__(
        self,
        halves: Halves,
        name: str,
        method: UnquantizedLinearMethod,
        values: list[tuple[torch.nn.Parameter, torch.Tensor, torch.Tensor]],
        prepare: Callable[[], list[slice]],
    ) -> None:
        self._halves, self._name, self._method, self._prepare = halves, name, method, prepare
        self._values = {id(parameter): (plus, minus) for parameter, plus, minus in values}

    def create_weights(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("the weights exist already")

    def apply(
        self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        if not (sides := self._prepare()):
            return self._method.apply(layer, x, bias)
        self._halves.check_tokens(self._name, len(x))
        output = x.new_empty(len(x), len(layer.weight))
        weights, biases = (self._values.get(id(p), (p, p)) for p in (layer.weight, bias))
        for tokens, weight, shift in zip(sides, weights, biases, strict=False):
            if shift is None:
                torch.mm(x[tokens], weight.t(), out=output[tokens])
            else:
                torch.addmm(shift, x[tokens], weight.t(), out=output[tokens])
        return output


class _PerturbedRows(TorchFunctionMode):
    """Answers the look-ups in one table: the first with rows at +, the second with those at -.

    Both halves look up the same rows.
    """

    def __init__(self, table: torch.nn.Parameter, piece: Piece, direction: Direction, eps: float) -> None:
        super().__init__()
        self._table, self._piece, self._direction, self._eps = table, piece, direction, eps
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
        gather_pair_into(plus, minus, weight, rows, self._direction, self._piece.region, self._eps)
        shape = (*args[0].shape, -1)
        self._minus = minus.view(shape)
        return plus.view(shape)
