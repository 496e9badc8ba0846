from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("engine", "which of SGLang's backends the engine tests use")
    group.addoption(
        "--attention-backend", help="default: torch_native without a GPU, SGLang's choice with one"
    )
    group.addoption("--lora-backend", help="default: this project's own")


@pytest.fixture(scope="session")
def engine_args(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The options given, as keyword arguments of SGLang's ServerArgs."""
    options = {name: request.config.getoption(name) for name in ("attention_backend", "lora_backend")}
    return {name: value for name, value in options.items() if value}
