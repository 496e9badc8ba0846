"""Score one prompt with a tiny OPT, through the patched SGLang, next to transformers.

Unusual: there is no server and nothing is downloaded. An OPT of two layers with random weights and a
byte-level tokenizer are made on the spot; SGLang's own ModelRunner is built in this process.

    make demo            (or: .venv/bin/python demo.py)
"""

import logging
import sys
import tempfile
import warnings

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, OPTConfig, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from sglang_mezo_plugin.patch import PatchError

PROMPT = "forward passes alone"


def make_tiny_opt(folder: str) -> None:
    """Write an OPT checkpoint of random weights, and a tokenizer whose tokens are the 256 bytes."""
    torch.manual_seed(0)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(["<pad>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="</s>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(folder)
    config = OPTConfig(
        vocab_size=len(vocab),
        hidden_size=128,
        word_embed_proj_dim=128,
        ffn_dim=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        activation_function="silu",  # unpatched SGLang takes it for the identity
        init_std=0.2,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=0,
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)


def reference_logprobs(folder: str, token_ids: list[int]) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logprobs = model(torch.tensor([token_ids])).logits[0, :-1].log_softmax(-1)
    return logprobs.gather(1, torch.tensor(token_ids[1:])[:, None])[:, 0]


def main() -> None:
    print("Importing SGLang (half a minute without a GPU) ...", flush=True)
    from sglang_mezo_plugin.engine.runner import open_runner
    from sglang_mezo_plugin.engine.scoring import prompt_logprobs

    with tempfile.TemporaryDirectory() as folder:
        make_tiny_opt(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        token_ids = [tokenizer.bos_token_id, *tokenizer(PROMPT)["input_ids"]]
        with open_runner(folder, dtype="float32", mem_fraction_static=0.3, max_total_tokens=1024) as runner:
            scored = prompt_logprobs(runner, [token_ids])[0]
        expected = reference_logprobs(folder, token_ids)

    print(f"\n{'token':>8}  {'SGLang':>10}  {'transformers':>12}")
    for token_id, ours, theirs in zip(token_ids[1:], scored, expected, strict=True):
        print(f"{tokenizer.decode([token_id])!r:>8}  {ours:10.5f}  {theirs:12.5f}")
    print(f"\nlog-probability of the prompt: {scored.sum():.4f} (transformers: {expected.sum():.4f})")
    print(f"largest difference of a token: {(scored - expected).abs().max():.1e}")


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        main()
    except PatchError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
