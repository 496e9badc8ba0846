"""The baseline is MeZO, and the floor counts what it says."""

import copy
from pathlib import Path

import floors
import models
import pytest
import torch
from baseline import MOVES, PlainMezo
from models import FIRST_TOKEN, Model
from transformers import AutoModelForCausalLM, PreTrainedModel

from sglang_mezo_plugin.tasks.example import Example

EPS, LEARNING_RATE, SEED = 1e-3, 1e-2, 7
BATCH = [
    Example(tuple(range(FIRST_TOKEN, FIRST_TOKEN + size)), ((100 + size,),), 0) for size in (9, 2, 17, 1)
]


@pytest.fixture
def model() -> PreTrainedModel:
    """Without ReLU: at its kink, a difference quotient and a derivative are two things."""
    config = copy.deepcopy(models.CONFIGS["tiny"])
    config.activation_function = "gelu"
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def loss_one_by_one(model: PreTrainedModel) -> torch.Tensor:
    losses = []
    for example in BATCH:
        logits = model(torch.tensor([example.prompt])).logits[0, -1]
        losses.append(-logits.log_softmax(-1)[example.options[0][0]])
    return torch.stack(losses).mean()


@pytest.mark.parametrize("name", MOVES)
def test_a_step_is_that_of_mezo(model: PreTrainedModel, name: str) -> None:
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    z = {name: torch.zeros_like(parameter) for name, parameter in before.items()}
    MOVES[name](z)(SEED, 1.0)
    assert sum(float((values**2).sum()) for values in z.values()) == pytest.approx(
        sum(values.numel() for values in z.values()), rel=0.02
    )
    loss_one_by_one(model).backward()
    derivative = sum(float((parameter.grad * z[n]).sum()) for n, parameter in model.named_parameters())
    plus, minus = PlainMezo(model, MOVES[name], EPS, LEARNING_RATE).step(BATCH, SEED)
    projected_grad = (plus - minus) / (2 * EPS)
    assert projected_grad == pytest.approx(derivative, rel=0.01)
    for n, parameter in model.named_parameters():
        expected = before[n] - LEARNING_RATE * projected_grad * z[n]
        torch.testing.assert_close(parameter.detach(), expected, rtol=0, atol=1e-6)


def test_padding_changes_no_loss(model: PreTrainedModel) -> None:
    """Without a learning rate and with hardly an eps the two losses are the loss."""
    with torch.no_grad():
        expected = float(loss_one_by_one(model))
    assert PlainMezo(model, MOVES["baseline"], eps=1e-12).step(BATCH, SEED) == pytest.approx(
        (expected, expected), abs=1e-5
    )


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("opt-125m", 125_239_296),
        ("opt-1.3b", 1_315_758_080),
        ("opt-13b", 12_853_473_280),
        ("smollm2-135m", 134_515_008),
    ],
)
def test_models_have_their_published_sizes(tmp_path: Path, name: str, parameters: int) -> None:
    assert Model.write(name, tmp_path).parameters == parameters


def test_floor_by_hand(tmp_path: Path) -> None:
    """Two layers of hidden size 64: 12 * 64**2 in matrices, 9 * 64 biases, 4 * 64 in norms; one last norm."""
    model = Model.write("tiny", tmp_path)
    layers = 2 * (12 * 64**2 + 9 * 64 + 4 * 64) + 2 * 64
    tables = 512 * 64 + 2050 * 64
    assert (model.parameters, model.embeddings) == (layers + tables, tables)
    batch = [Example((5, 6, 7), ((8,),), 0), Example((9,), ((8,),), 0)]
    forward = floors.work_of_step(model, batch, itemsize=2, updates_weights=False)
    full = floors.work_of_step(model, batch, itemsize=2, updates_weights=True)
    attention = 4 * 2 * 64 * (9 + 1) / 2
    assert forward.flops == full.flops == 2 * (2 * layers * 4 + 2 * 512 * 64 * 2 + attention)
    assert (forward.bytes, full.bytes) == (2 * model.parameters, 6 * model.parameters)
    rates = floors.Rates(flops=1e9, bytes=1e9)
    assert forward.floor_ms(rates, devices=1) == forward.flops / 1e6
    assert full.floor_ms(floors.Rates(1e12, 1e6), devices=2) == full.bytes / 1e3 / 2


def test_tokens_are_the_same_for_every_case(tmp_path: Path) -> None:
    model = Model.write("tiny", tmp_path)
    examples = models.random_examples(model, 32, 400)
    assert examples == models.random_examples(model, 32, 400)
    lengths = [len(example.prompt) for example in examples]
    assert (min(lengths), max(lengths)) == (16, 48)
    tokens = [token for example in examples for token in example.prompt]
    assert (min(tokens), max(tokens)) == (FIRST_TOKEN, 511)
