from typing import Any

import pytest


@pytest.fixture(scope="session", autouse=True)
def _default_server_args(engine_args: dict[str, Any], forking_servers: None, forked_ranks: None) -> None:
    from sglang.test.tiny_model_utils import TinyModelRunner

    # LoRA backends are named in the tests themselves.
    TinyModelRunner.default_server_args = {k: v for k, v in engine_args.items() if k != "lora_backend"}
