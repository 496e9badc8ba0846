"""Small adapters: the fake server answers with the number that fills one."""

import torch
from peft import LoraConfig

NAME = "base_model.model.model.layers.0.self_attn.{}_proj.lora_{}.weight"


def tensors(number: float) -> dict[str, torch.Tensor]:
    """A [2, 4] and B [4, 2] of q_proj and v_proj; A is a view into a much larger tensor."""
    large = torch.full((1000, 4), float(number))
    return {
        NAME.format(m, side): large[:2] if side == "A" else torch.zeros(4, 2) for m in "qv" for side in "AB"
    }


def config(rank: int = 2, targets: tuple[str, ...] = ("q_proj", "v_proj")) -> dict[str, object]:
    """PEFT's own: it holds sets and members of enumerations."""
    return LoraConfig(r=rank, lora_alpha=4, target_modules=list(targets), task_type="CAUSAL_LM").to_dict()
