"""Update rules, against torch.optim with the gradient estimate written out."""

import math
import re
from typing import Any

import pytest
import torch
from quadratic import Quadratic

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.training.optimizers import SGD, Adam, Grads, Momentum, Optimizer, make_optimizer

STEPS: list[Grads] = [
    [
        (3 * step, 0.5 * (-1) ** step),
        (3 * step + 1, 2.0),
        (3 * step + 2, -0.25),
    ]
    for step in range(1, 7)
]


def train(optimizer: Optimizer, carrier: Quadratic | None = None) -> Quadratic:
    """Six steps with learning rates 0.1, 0.05, 0.0333..."""
    carrier = carrier or Quadratic()
    optimizer.attach(carrier)
    for step, grads in enumerate(STEPS, start=1):
        optimizer.update(grads, 0.1 / step, step)
    return carrier


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
@pytest.mark.parametrize(
    ("name", "theirs", "options"),
    [
        ("sgd", torch.optim.SGD, {}),
        ("momentum", torch.optim.SGD, {"momentum": 0.8}),
        ("adam", torch.optim.AdamW, {"betas": (0.8, 0.95), "eps": 1e-3}),
    ],
)
def test_as_torch(name: str, theirs: Any, options: dict[str, Any], weight_decay: float) -> None:
    carrier = Quadratic()
    weight, bias = (torch.nn.Parameter(tensor.double()) for tensor in carrier.theta.values())
    groups = [
        {"params": [weight], "weight_decay": weight_decay},
        {"params": [bias], "weight_decay": 0.0},
    ]
    reference = theirs(groups, lr=0.1, **options)
    for step, grads in enumerate(STEPS, start=1):
        estimate = sum(grad * carrier.z(seed) for seed, grad in grads) / len(grads)
        weight.grad, bias.grad = estimate[:8].view(2, 4), estimate[8:]
        for group in reference.param_groups:
            group["lr"] = 0.1 / step
        reference.step()
    ours = {"adam_" * (name == "adam") + key: value for key, value in options.items()}
    train(make_optimizer(name, learning_rate=0.1, weight_decay=weight_decay, **ours), carrier)
    expected = torch.cat([weight.detach().flatten(), bias.detach()])
    torch.testing.assert_close(carrier.flat(), expected, rtol=0, atol=1e-6)


def test_sgd_hands_its_moves_to_the_carrier(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    carrier = Quadratic()
    monkeypatch.setattr(carrier, "step", lambda *args, **kwargs: calls.append((args, kwargs)))
    monkeypatch.setattr(carrier, "parameters", lambda: pytest.fail("full-parameter training has none"))
    optimizer = SGD(weight_decay=0.25)
    optimizer.attach(carrier)
    optimizer.update([(8, 3.0), (9, -1.0)], 0.5, 1)
    moves = [(8, -0.75), (9, 0.25)]
    assert calls == [((moves,), {"decay": 0.875, "rounding_seed": 8})]


@pytest.mark.parametrize("optimizer", [Momentum(), Adam()])
def test_state_is_refused_where_there_is_no_room_for_it(
    optimizer: Optimizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parameters() -> None:
        raise UserError("full-parameter training keeps no optimizer state: pass --optimizer sgd")

    carrier = Quadratic()
    monkeypatch.setattr(carrier, "parameters", parameters)
    with pytest.raises(UserError, match="--optimizer sgd"):
        optimizer.attach(carrier)


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam"])
def test_attached_again_it_starts_again_with_the_same_bits(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer = make_optimizer(name, learning_rate=0.1, weight_decay=0.1)
    first = train(optimizer)
    written = []
    again = Quadratic()
    monkeypatch.setattr(again, "written", lambda: written.append(again.bits()))
    assert train(optimizer, again).bits() == first.bits() != Quadratic().bits()
    assert len(written) == (0 if name == "sgd" else len(STEPS))
    assert name == "sgd" or written[-1] == again.bits()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "lion"}, "--optimizer must be one of sgd, momentum, adam, not 'lion'"),
        (
            {"weight_decay": -0.1},
            "--weight-decay must be at least 0 and at most 1 / --learning-rate, not -0.1",
        ),
        ({"weight_decay": 11}, "at most 1 / --learning-rate, not 11"),
        ({"weight_decay": math.nan}, "not nan"),
        ({"momentum": 1.0}, "--momentum must be in [0, 1), not 1.0"),
        ({"adam_betas": (0.9, 1.0)}, "--adam-betas must be in [0, 1), not 1.0"),
        ({"adam_eps": 0.0}, "--adam-eps must be above 0 and finite, not 0.0"),
    ],
)
def test_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        make_optimizer(**{"name": "sgd", "learning_rate": 0.1, **options})
