"""Update rules: from projected gradients along directions to a move of the parameters.

The gradient estimate of a step is mean(g_i * z_i). SGD never forms it: it hands the moves to the carrier,
which writes them in one pass and keeps no state. Momentum and Adam keep fp32 state of the parameters' shapes,
so they need a carrier whose parameters are small: an adapter or a prefix. Their state is not saved either:
replaying the journal rebuilds it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import torch

from sglang_mezo_plugin.bounds import FRACTION, POSITIVE, bounded, check_fields
from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.noise import Moves, StepNumbers, UpdatePlan
from sglang_mezo_plugin.training.carrier import Trainable

OptimizerName = Literal["sgd", "momentum", "adam"]
NAMES = get_args(OptimizerName)

Grads = Sequence[tuple[int, float]]
"""The seed of each direction of a step, with the projected gradient along it, clipped."""


class Optimizer(Protocol):
    """An update rule. Weight decay spares biases and norms: parameters of one dimension."""

    def attach(self, carrier: Trainable) -> None:
        """Take the carrier to train, with state as before step 1. UserError if it has no state to offer."""
        ...

    def update(self, grads: Grads, learning_rate: float, step: int) -> None:
        """Move the carrier's parameters by step 1, 2, ...; steps come in order."""
        ...


@dataclass(frozen=True)
class OptimizerConfig:
    """The numbers of all optimizers, each an option. UserError for one out of range."""

    weight_decay: float = 0.0
    momentum: float = bounded(0.9, FRACTION)
    adam_betas: tuple[float, float] = bounded((0.9, 0.999), FRACTION)
    adam_eps: float = bounded(1e-8, POSITIVE)

    def __post_init__(self) -> None:
        check_fields(self)


class SGD:
    """theta -= lr * (mean(g_i z_i) + weight_decay * theta): algorithm 1 of MeZO. For every carrier."""

    def __init__(self, weight_decay: float = 0.0) -> None:
        self.weight_decay = weight_decay

    def attach(self, carrier: Trainable) -> None:
        self._carrier = carrier

    def update(self, grads: Grads, learning_rate: float, step: int) -> None:
        moves = [(seed, -learning_rate * grad / len(grads)) for seed, grad in grads]
        decay = 1 - learning_rate * self.weight_decay
        self._carrier.step(moves, decay=decay, rounding_seed=grads[0][0])


class Momentum:
    """v = momentum * v + mean(g_i z_i) + weight_decay * theta; theta -= lr * v: as torch.optim.SGD."""

    def __init__(self, momentum: float = OptimizerConfig.momentum, weight_decay: float = 0.0) -> None:
        self.momentum = momentum
        self.weight_decay = weight_decay

    def attach(self, carrier: Trainable) -> None:
        self._carrier = carrier
        self._velocity = _zeros(carrier)
        self._plan = _plan(self._velocity, carrier)

    def update(self, grads: Grads, learning_rate: float, step: int) -> None:
        _accumulate(self._plan, self._velocity, grads, self.momentum)
        for name, (parameter, _) in self._carrier.parameters().items():
            velocity = self._velocity[name]
            if parameter.dim() > 1:
                velocity.add_(parameter, alpha=self.weight_decay)
            parameter.add_(velocity, alpha=-learning_rate)
        self._carrier.written()


class Adam:
    """Adam with decoupled weight decay and bias correction: AdamW, Loshchilov and Hutter 2019; torch's."""

    def __init__(
        self,
        betas: tuple[float, float] = OptimizerConfig.adam_betas,
        eps: float = OptimizerConfig.adam_eps,
        weight_decay: float = 0.0,
    ) -> None:
        self.betas = betas
        self.eps = eps
        self.weight_decay = weight_decay

    def attach(self, carrier: Trainable) -> None:
        self._carrier = carrier
        self._first = _zeros(carrier)
        self._second = _zeros(carrier)
        self._gradient = _zeros(carrier)
        self._plan = _plan(self._gradient, carrier)

    def update(self, grads: Grads, learning_rate: float, step: int) -> None:
        beta1, beta2 = self.betas
        for gradient in self._gradient.values():
            gradient.zero_()
        _accumulate(self._plan, self._gradient, grads)
        for name, (parameter, _) in self._carrier.parameters().items():
            gradient = self._gradient[name]
            first = self._first[name].lerp_(gradient, 1 - beta1)
            second = self._second[name].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            scale = (second.sqrt() / math.sqrt(1 - beta2**step)).add_(self.eps)
            if parameter.dim() > 1:
                parameter.mul_(1 - learning_rate * self.weight_decay)
            parameter.addcdiv_(first, scale, value=-learning_rate / (1 - beta1**step))
        self._carrier.written()


def make_optimizer(name: str, *, learning_rate: float, **numbers: Any) -> Optimizer:
    """Return the optimizer of this name, one of `NAMES`; what it has no use for is ignored.

    learning_rate: the largest of the run, to check weight_decay with: decay never turns a weight's sign.
    numbers: those of `OptimizerConfig`. UserError for an unknown name and for numbers out of range, named as
    the options of the commands.
    """
    config = OptimizerConfig(**numbers)
    _check(f"--optimizer must be one of {', '.join(NAMES)}, not {name!r}", name in NAMES)
    _check(
        f"--weight-decay must be at least 0 and at most 1 / --learning-rate, not {config.weight_decay}",
        config.weight_decay >= 0 and config.weight_decay * learning_rate <= 1,
    )
    if name == "sgd":
        return SGD(config.weight_decay)
    if name == "momentum":
        return Momentum(config.momentum, config.weight_decay)
    return Adam(tuple(config.adam_betas), config.adam_eps, config.weight_decay)


def _check(message: str, fine: bool) -> None:
    if not fine:
        raise UserError(message)


def _zeros(carrier: Trainable) -> dict[str, torch.Tensor]:
    return {name: torch.zeros_like(parameter) for name, (parameter, _) in carrier.parameters().items()}


def _plan(buffers: Mapping[str, torch.Tensor], carrier: Trainable) -> UpdatePlan:
    """Return what adds directions to buffers of the parameters' names and shapes."""
    regions = {name: region for name, (_, region) in carrier.parameters().items()}
    parts = [(buffer, regions[name], True) for name, buffer in buffers.items()]
    return UpdatePlan(parts, carrier.distribution)


def _accumulate(
    plan: UpdatePlan, buffers: Mapping[str, torch.Tensor], grads: Grads, decay: float = 1.0
) -> None:
    """Add mean(g_i z_i) to decay times each buffer; being fp32, they are not rounded by the seed 0."""
    moves: Moves = [(seed, grad / len(grads)) for seed, grad in grads]
    device = next(iter(buffers.values())).device
    plan.accumulate_(StepNumbers.moving(device, moves, 0, decay))
