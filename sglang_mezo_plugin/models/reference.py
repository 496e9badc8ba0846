"""The same model in transformers, with the adapter in PEFT: what the engine is compared with."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.models.adapter import Adapter
from sglang_mezo_plugin.models.checkpoint import one_line
from sglang_mezo_plugin.tasks.example import Example

LogProbs = list[list[torch.Tensor]]
"""logprobs[example][option]: fp32 [tokens] on the CPU, of the option's tokens."""


class Reference:
    """A checkpoint as transformers loads it, with an adapter that PEFT applies, or none.

    trained: the parameters that a direction moves, by the names they have in the checkpoint, or in PEFT's
    file of the adapter. They are the memory that the model computes with.
    """

    def __init__(self, model: PreTrainedModel, trained: Mapping[str, torch.Tensor]) -> None:
        self.model, self.trained = model, trained

    @torch.no_grad()
    def score(self, examples: Sequence[Example]) -> LogProbs:
        """Score each option in a forward of its own: nothing is padded, shared or packed."""
        return [[self._score(example.prompt, option) for option in example.options] for example in examples]

    def _score(self, prompt: tuple[int, ...], option: tuple[int, ...]) -> torch.Tensor:
        tokens = torch.tensor([prompt + option[:-1]], device=self.model.device)
        logits = self.model(input_ids=tokens, use_cache=False).logits[0, len(prompt) - 1 :].float()
        targets = torch.tensor(option, device=logits.device)
        return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0].cpu()

    @contextmanager
    def moved_to(self, tensors: Mapping[str, torch.Tensor]) -> Iterator[None]:
        """Let trained parameters really have other values; they get their own back afterwards."""
        own = {name: self.trained[name].clone() for name in tensors}
        try:
            self._write(tensors)
            yield
        finally:
            self._write(own)

    @torch.no_grad()
    def _write(self, tensors: Mapping[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            self.trained[name].copy_(tensor)


@contextmanager
def open_reference(
    checkpoint: Path, adapter: Adapter | None, dtype: torch.dtype, device: str, trained: Sequence[str]
) -> Iterator[Reference]:
    """Load a model, and free it afterwards: a device may have room for one of the two engines only.

    trained: names in the checkpoint, of the parameters that training moves without an adapter. UserError for
    what transformers cannot load.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype).to(device).eval()
    except Exception as error:  # of any kind: each architecture has its own
        raise UserError(
            f"{checkpoint}: transformers cannot load it ({one_line(error)}), so there is nothing to "
            "compare with"
        ) from error
    reference = Reference(model, _parameters(model, adapter, trained))
    try:
        yield reference
    finally:
        del reference, model
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()


def _parameters(
    model: PreTrainedModel, adapter: Adapter | None, trained: Sequence[str]
) -> dict[str, torch.Tensor]:
    if adapter is not None:
        from peft import get_peft_model_state_dict, inject_adapter_in_model

        inject_adapter_in_model(adapter.config, model)
        found = get_peft_model_state_dict(model, save_embedding_layers=False)
        prefix = "base_model.model."
        tensors = {prefix + name.removeprefix(prefix): tensor for name, tensor in found.items()}
        names = adapter.tensors.keys()
    else:
        tensors, names = dict(model.state_dict()), trained
        prefix = f"{model.base_model_prefix}."
        # Checkpoints of a base model leave its name out: "h.0.attn" for "transformer.h.0.attn".
        tensors |= {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    if missing := sorted(set(names) - tensors.keys()):
        raise UserError(
            f"{missing[0]}: transformers keeps it under another name or shape, so there is nothing "
            "to compare it with"
        )
    return {name: tensors[name] for name in names}
