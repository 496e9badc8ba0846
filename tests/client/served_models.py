"""A small Llama whose completions tell its tokens, adapters that change them, and what PEFT makes of both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedTokenizerFast
from transformers.utils import logging

from sglang_mezo_plugin.client import Completion, Job, Member, Sampling

logging.disable_progress_bar()

SPECIAL = ["<pad>", "</s>"]
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RANK = 4
# Of logits whose standard deviation is 1.6.
MARGIN = 2e-4
# Weights so large that completions differ from prompt to prompt.
LLAMA = LlamaConfig(
    vocab_size=len(SPECIAL) + 256,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=160,
    initializer_range=0.2,
    bos_token_id=1,
    eos_token_id=1,
    pad_token_id=0,
)
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}bot: "
# As text, token ids and a conversation.
PROMPTS = ["a film", [70, 71, 72, 90], ({"role": "user", "content": "the score"},)]


@dataclass(frozen=True)
class Adapter:
    """An adapter of random numbers. tensors: by their names in PEFT's files; config: PEFT's."""

    model: PeftModel
    tensors: Mapping[str, torch.Tensor]
    config: Mapping[str, Any]

    def member(self, jobs: Sequence[Job]) -> Member:
        return Member(lambda: self.tensors, self.config, jobs)


def save_model(folder: Path) -> Path:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(LLAMA, dtype=torch.float32).save_pretrained(folder)
    # Each token is one letter of its own, also where the bytes that it stands for are no text.
    vocabulary = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(vocabulary)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="</s>",
        eos_token="</s>",
        pad_token="<pad>",
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    return folder


@cache
def adapter(model: Path, seed: int, targets: tuple[str, ...], rank: int = RANK) -> Adapter:
    config = LoraConfig(r=rank, lora_alpha=8, target_modules=list(targets), task_type="CAUSAL_LM")
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), config).eval()
    draw = torch.Generator().manual_seed(seed)
    names = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    tensors = {name: 0.1 * torch.randn(tensor.shape, generator=draw) for name, tensor in names.items()}
    set_peft_model_state_dict(adapted, tensors)
    return Adapter(adapted, tensors, config.to_dict())


def adapters(model: Path, count: int) -> list[Adapter]:
    """Every second one changes q_proj and v_proj alone, the others all linear modules."""
    return [
        adapter(model, seed, tuple(ALL_LINEAR if seed % 2 else ("q_proj", "v_proj"))) for seed in range(count)
    ]


def jobs(max_new_tokens: int) -> list[Job]:
    return [Job(prompt, Sampling(max_new_tokens)) for prompt in PROMPTS]


@torch.no_grad()
def expected(model: Path, adapted: PeftModel, asked: Sequence[Job]) -> list[Completion]:
    """Return transformers' greedy completions in fp32. None of their tokens is a matter of rounding."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    found = []
    for job in asked:
        prompt = token_ids(tokenizer, job.prompt)
        answer = adapted.generate(
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=job.sampling.max_new_tokens,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
        best = torch.cat(answer.logits).topk(2).values
        assert (best[:, 0] - best[:, 1]).min() > MARGIN
        new = answer.sequences[0, len(prompt) :].tolist()
        reason = "stop" if new[-1] == LLAMA.eos_token_id else "length"
        text = tokenizer.decode(new, skip_special_tokens=True)
        found.append(Completion(text, reason, len(prompt), len(new)))
    return found


def token_ids(tokenizer: PreTrainedTokenizerFast, prompt: Any) -> list[int]:
    if isinstance(prompt, list):
        return prompt
    if isinstance(prompt, tuple):
        prompt = tokenizer.apply_chat_template(list(prompt), add_generation_prompt=True, tokenize=False)
    return tokenizer(prompt)["input_ids"]
