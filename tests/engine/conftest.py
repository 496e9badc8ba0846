from typing import Any

import pytest
import torch


@pytest.fixture(scope="session")
def atol(engine_args: dict[str, Any]) -> float:
    """Largest difference of a log-probability from transformers in fp32.

    Triton's dot products round fp32 operands to TF32, 2**-11 relative: 1e-2 on logits of a few units. The
    adapters of these tests move log-probabilities by far more. Without them fp32 is fp32 on a GPU too.
    """
    attention, lora = (engine_args.get(name) for name in ("attention_backend", "lora_backend"))
    exact = attention == "torch_native" and lora in (None, "torch_native")
    return 1e-5 if exact or not torch.cuda.is_available() else 1e-2
