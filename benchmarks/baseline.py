"""Plain MeZO on transformers, to compare with: what the reference implementation does, without its overhead.

Unusual: it is meant to be fast. Attention is sdpa's, the head runs at the labelled positions only, and
weights are moved in place. As in the reference (Malladi et al. 2023, algorithm 1; princeton-nlp/MeZO,
`zo_step`), a batch is padded, the two signs are two forwards, and noise is made four times: to +eps, to -eps,
back, and for the update.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from models import Model
from timing import Run
from transformers import AutoModelForCausalLM, PreTrainedModel

from sglang_mezo_plugin.noise import Region, StepNumbers, UpdatePlan
from sglang_mezo_plugin.tasks.example import Example
from sglang_mezo_plugin.tasks.sampler import Sampler
from sglang_mezo_plugin.training.spsa import projected_grad

EPS, LEARNING_RATE = 1e-3, 1e-6
DUMMY_RANGE = 1e-3  # of the weights that SGLang makes up with --load-format dummy

# Adds coefficient * z to all parameters, z being drawn from a seed.
Move = Callable[[int, float], None]


def by_normal(parameters: Mapping[str, torch.Tensor]) -> Move:
    """As the reference does: torch.normal, parameter after parameter, from one generator."""
    device = next(iter(parameters.values())).device

    def move(seed: int, coefficient: float) -> None:
        generator = torch.Generator(device).manual_seed(seed)
        for parameter in parameters.values():
            z = torch.normal(
                0.0, 1.0, parameter.shape, generator=generator, device=device, dtype=parameter.dtype
            )
            parameter.add_(z, alpha=coefficient)

    return move


def by_plan(parameters: Mapping[str, torch.Tensor]) -> Move:
    """With this project's noise: one launch for all parameters, which never writes z to memory."""
    parts = [(tensor, Region.whole(name, tensor.shape), True) for name, tensor in parameters.items()]
    plan = UpdatePlan(parts, "gaussian")
    device = next(iter(parameters.values())).device

    def move(seed: int, coefficient: float) -> None:
        plan.accumulate_(StepNumbers.moving(device, [(seed, coefficient)], rounding_seed=seed))

    return move


MOVES: dict[str, Callable[[Mapping[str, torch.Tensor]], Move]] = {
    "baseline": by_normal,
    "baseline-fused": by_plan,
}


class PlainMezo:
    """MeZO on a causal language model of transformers, all of whose weights it moves in place."""

    def __init__(
        self,
        model: PreTrainedModel,
        make_move: Callable[[Mapping[str, torch.Tensor]], Move],
        eps: float = EPS,
        learning_rate: float = LEARNING_RATE,
    ) -> None:
        self._model = model.eval()
        self._move = make_move({name: parameter.data for name, parameter in model.named_parameters()})
        self._eps = eps
        self._learning_rate = learning_rate

    @torch.no_grad()
    def step(self, batch: Sequence[Example], seed: int) -> tuple[float, float]:
        """Make a step along the direction of a seed; return the losses at + and at -."""
        inputs = _padded(batch, self._model.device)
        self._move(seed, self._eps)
        plus = self.loss(*inputs)
        self._move(seed, -2 * self._eps)
        minus = self.loss(*inputs)
        self._move(seed, self._eps)
        losses = torch.stack((plus, minus)).tolist()
        self._move(seed, -self._learning_rate * projected_grad(*losses, self._eps))
        return losses[0], losses[1]

    def loss(self, ids: torch.Tensor, mask: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean cross-entropy of the token after each sequence, fp32."""
        states = self._model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
        last = states.last_hidden_state[torch.arange(len(ids), device=ids.device), mask.sum(1) - 1]
        return F.cross_entropy(self._model.get_output_embeddings()(last).float(), targets)


def random_model(model: Model, dtype: torch.dtype, device: str) -> PreTrainedModel:
    """Return the model with such weights as SGLang makes up: power, and so clocks, depend on the numbers."""
    with torch.device(device):
        made = AutoModelForCausalLM.from_config(model.config, dtype=dtype, attn_implementation="sdpa")
    for parameter in made.parameters():
        parameter.data.uniform_(-DUMMY_RANGE, DUMMY_RANGE)
    return made


def baseline_run(mezo: PlainMezo, sampler: Sampler) -> Run:
    """Return what makes steps on the batches of a sampler."""

    def run(steps: int, after_step: Callable[[float, float], None]) -> None:
        for step in range(1, steps + 1):
            after_step(*mezo.step(sampler.batch(step).examples, seed=step))

    return run


def _padded(
    batch: Sequence[Example], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return token ids and mask, int64 [sequences, longest], padded on the right, and targets [sequences]."""
    prompts = [torch.tensor(example.prompt) for example in batch]
    ids = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True)
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    targets = torch.tensor([example.options[example.label][0] for example in batch])
    return ids.to(device), mask.to(device), targets.to(device)
