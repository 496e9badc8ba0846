from typing import Any

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("engine", "which of SGLang's backends the engine tests use")
    group.addoption(
        "--attention-backend", help="default: torch_native without a GPU, SGLang's choice with one"
    )
    group.addoption("--lora-backend", help="default: torch_native without a GPU, SGLang's choice with one")


@pytest.fixture(scope="session")
def engine_args(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Keyword arguments of SGLang's ServerArgs for the host and the options given."""
    on_cpu = not torch.cuda.is_available()
    names = ("attention_backend", "lora_backend")
    chosen = {name: request.config.getoption(f"--{name.replace('_', '-')}") for name in names}
    args = {name: value or ("torch_native" if on_cpu else None) for name, value in chosen.items()}
    return {name: value for name, value in args.items() if value}


@pytest.fixture(scope="session")
def atol() -> float:
    """Largest difference of a log-probability from transformers in fp32.

    Triton's dot products round fp32 operands to TF32, 2**-11 relative: 1e-2 on logits of a few units. The
    adapters of these tests move log-probabilities by far more.
    """
    return 1e-2 if torch.cuda.is_available() else 1e-5
