"""Runs each module of a model twice: with W + eps z on half of the tokens, with W - eps z on the others.

The weights stay where they are while they are probed. A linear layer multiplies each half of its input by
weights made in a scratch buffer; any other module runs with its parameters pointing to such memory, one half
after the other. What reads a weight elsewhere finds NaN, see `shield.py`. As many layers' weights are made by
one launch as the scratch buffer holds, just before the first of them is used, and those of all norms at the
beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from sglang.srt.layers.linear import LinearBase
from sglang.srt.layers.quantization.unquant import UnquantizedLinearMethod
from sglang.srt.layers.vocab_parallel_embedding import VocabParallelEmbedding

from sglang_mezo_plugin.engine.dense.head import PerturbedHead
from sglang_mezo_plugin.engine.dense.linear import LinearOnHalves
from sglang_mezo_plugin.engine.dense.placement import Pieces
from sglang_mezo_plugin.engine.dense.probes import Probe
from sglang_mezo_plugin.engine.dense.rows import PerturbedRows
from sglang_mezo_plugin.engine.dense.shield import Shield, switch_off_fused_kernels
from sglang_mezo_plugin.engine.dense.weights import Perturbed, Update, bytes_of
from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.noise import Distribution, UpdatePlan

EMBEDDINGS = (VocabParallelEmbedding, torch.nn.Embedding)
HEAD_BLOCK = 1 << 24  # elements of the head that are perturbed at a time, at least
# What models call a module by: some name the path of a platform themselves.
ENTRIES = ("forward", "forward_native", "forward_cuda")
SCRATCH = 640 << 20  # bytes for each side, if no module has more: a decoder layer of OPT-13B


class Halves:
    """Takes the place of what computes with the weights of each module that has some.

    Outside `at`, modules run as ever. Raises UserError for a model whose weights cannot be perturbed so.
    """

    def __init__(self, model: torch.nn.Module, pieces: Pieces, distribution: Distribution) -> None:
        self._pieces, self._distribution = pieces, distribution
        self._probe: Probe | None = None
        self._sides: list[slice] = []
        self._running: str | None = None
        self._unused = set(pieces)
        linear: dict[str, list[torch.nn.Parameter]] = {}
        norms: dict[str, list[torch.nn.Parameter]] = {}
        tables: dict[torch.nn.Parameter, None] = {}
        modules = dict(model.named_modules())
        seen: set[torch.nn.Parameter] = set()
        for name, module in modules.items():
            own = [parameter for _, parameter in _own(module, pieces)]
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
        self._tables = [
            UpdatePlan([(p.of(table.data), p.region, p.decays) for p in pieces[table]], distribution)
            for table in tables
        ]
        groups = _grouped(linear)
        head = max((min(table.numel(), HEAD_BLOCK) * table.element_size() for table in tables), default=0)
        sizes = [sum(map(bytes_of, group.values())) for group in groups]
        self._scratch = self._buffers(max([head, *sizes]))
        self._groups = [self._install(modules, group, self._scratch) for group in groups]
        self._norms = self._install(modules, norms, self._buffers(sum(map(bytes_of, norms.values()))))
        switch_off_fused_kernels(model)
        hidden = {name: _own(modules[name], pieces) for name in (*linear, *norms)}
        self.shield = Shield((f"{name}.{key}", p) for name, own in hidden.items() for key, p in own)
        self._written: list[Perturbed] = []
        self._heads: dict[torch.nn.Parameter, PerturbedHead] = {}

    @contextmanager
    def at(self, probe: Probe, tokens: int, mirrored: bool = True) -> Iterator[None]:
        """Let modules run at + eps on the first `tokens` tokens, and, if mirrored, at - eps on as many more.

        Raises UserError at the end of the first time if there is a weight that no module has used: its
        perturbation would have had no effect.
        """
        self._probe = probe
        self._sides = [slice(0, tokens), slice(tokens, 2 * tokens)][: 1 + mirrored]
        probe.write(self._norms)
        self._written = [self._norms]
        try:
            with self.shield.raised():
                yield
        finally:
            self._probe = None
        if self._unused:
            names = sorted({piece.name for parameter in self._unused for piece in self._pieces[parameter]})
            raise UserError(f"{', '.join(names)}: no module's forward reads them: use --mode lora")

    def step(self, update: Update) -> None:
        """Move all weights: tables now, others when they are perturbed next, or by `settle`."""
        for table in self._tables:
            table.accumulate_(update.numbers)
        for weights in (self._norms, *self._groups):
            weights.wait(update)

    @property
    def waiting(self) -> Update | None:
        """The step that some weights have not taken yet, if there are any: the last one."""
        steps = (weights.waiting for weights in (self._norms, *self._groups))
        return next((step for step in steps if step is not None), None)

    def settle(self) -> None:
        """Let every weight be what the steps so far make of it."""
        for weights in (self._norms, *self._groups):
            weights.settle()

    def head_blocks(self, lm_head: torch.nn.Module) -> Iterator[tuple[int, list[torch.Tensor]]]:
        """Yield each block of the head (see `scoring.py`): its first token, and its weights on each side."""
        parameter = lm_head.weight
        (piece,) = self._pieces[parameter]
        self._unused.discard(parameter)
        if parameter not in self._heads:
            self._heads[parameter] = PerturbedHead(parameter, piece, self._scratch, self._distribution)
        self._written = [self._norms]
        for first, weights in self._heads[parameter].write(self._probe):
            yield first, weights[: len(self._sides)]

    def _buffers(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        device = next(iter(self._pieces)).device
        return tuple(torch.empty(size, dtype=torch.uint8, device=device) for _ in range(2))

    def _install(
        self,
        modules: Mapping[str, torch.nn.Module],
        parameters: Mapping[str, list[torch.nn.Parameter]],
        buffers: tuple[torch.Tensor, torch.Tensor],
    ) -> Perturbed:
        """Let modules compute with values in buffers, which are written together. Return what writes them."""
        weights = Perturbed(
            [p for own in parameters.values() for p in own], self._pieces, buffers, self._distribution
        )
        values = iter(zip(weights.parameters, weights.plus, weights.minus, strict=True))
        for name, own in parameters.items():
            module = modules[name]
            prepare, mine = partial(self._prepare, own, weights), [next(values) for _ in own]
            if isinstance(module, LinearBase) and type(module.quant_method) is UnquantizedLinearMethod:
                check = partial(self._check_tokens, name)
                module.quant_method = LinearOnHalves(module.quant_method, mine, prepare, check)
            else:
                for entry in filter(partial(hasattr, module), ENTRIES):
                    forward = getattr(module, entry)
                    setattr(module, entry, partial(self._run, name, forward, mine, prepare))
        return weights

    def _prepare(self, parameters: list[torch.nn.Parameter], weights: Perturbed | None) -> list[slice]:
        """Return the sides to compute, or none outside `at`; before that, let the values of both be there."""
        if self._probe is None:
            return []
        if self._unused:
            self._unused.difference_update(parameters)
        if weights is not None and weights not in self._written:
            self._probe.write(weights)
            self._written = [self._norms, weights]
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
        if self._running == name or not (sides := prepare()):  # an entry may call another
            return forward(*args, **kwargs)
        self._running = name
        own = [parameter.data for parameter, _, _ in values]
        outputs = []
        try:
            for side in range(len(sides)):
                for parameter, *both in values:
                    parameter.data = both[side]
                outputs.append(forward(*self._part(args, side), **self._part(kwargs, side)))
        finally:
            self._running = None
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
        with PerturbedRows(parameter, piece, self._distribution, self._probe) as rows:
            outputs = [
                forward(*self._part(args, side), **self._part(kwargs, side)) for side in range(len(sides))
            ]
        if rows.answered != len(sides):
            raise UserError(f"{name} does not look its rows up one by one: use --mode lora")
        return self._joined(name, outputs)

    def _part(self, values: Any, side: int) -> Any:
        """Return arguments with each tensor of all tokens cut down to a side's.

        A norm of heads works on rows of tokens times heads: those of a token follow each other.
        """
        if isinstance(values, torch.Tensor) and values.dim() and self._has_tokens(len(values)):
            rows = len(values) // len(self._sides)
            return values[side * rows : (side + 1) * rows]
        if isinstance(values, tuple | list):
            return type(values)(self._part(value, side) for value in values)
        if isinstance(values, Mapping):
            return {key: self._part(value, side) for key, value in values.items()}
        return values

    def _joined(self, name: str, outputs: list[Any]) -> Any:
        if len(outputs) == 1:
            return outputs[0]
        if isinstance(outputs[0], tuple):
            return tuple(self._joined(name, list(parts)) for parts in zip(*outputs, strict=True))
        if outputs[0] is None:
            return None
        if not self._has_tokens(sum(map(len, outputs))):
            raise UserError(f"{name} works on something else than the rows of tokens: use --mode lora")
        return torch.cat(outputs)

    def _has_tokens(self, rows: int) -> bool:
        """Whether so many rows can be the same number for each token."""
        return rows > 0 and rows % self._sides[-1].stop == 0

    def _check_tokens(self, name: str, tokens: int) -> None:
        """Raise UserError for a linear layer that does not work on one row a token."""
        if tokens != self._sides[-1].stop:
            raise UserError(f"{name} works on something else than a row a token: use --mode lora")


def _own(module: torch.nn.Module, pieces: Pieces) -> list[tuple[str, torch.nn.Parameter]]:
    """Return a module's own parameters that the checkpoint has, by name."""
    return [(key, p) for key, p in module.named_parameters(recurse=False) if p in pieces]


def _grouped(parameters: Mapping[str, list[torch.nn.Parameter]]) -> list[dict[str, list[torch.nn.Parameter]]]:
    """Split modules, in their order, into groups that each fit into SCRATCH, or are one module."""
    groups: list[dict[str, list[torch.nn.Parameter]]] = []
    size = 0
    for name, own in parameters.items():
        size += bytes_of(own)
        if not groups or size > SCRATCH:
            groups.append({})
            size = bytes_of(own)
        groups[-1][name] = own
    return groups
