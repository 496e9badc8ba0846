"""The ModelRunner that the plugin builds in its own process, and what it scores."""

import re
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from sglang.srt.model_executor.model_runner import ModelRunner
from sglang.srt.server_args import PortArgs
from sglang.test.tiny_model_utils import load_reference, reference_logprobs, save_tiny_model
from transformers import OPTConfig

from sglang_mezo_plugin.engine.frozen import FrozenCarrier
from sglang_mezo_plugin.engine.runner import open_runner
from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.patching import series
from sglang_mezo_plugin.patching.diffs import PatchError
from sglang_mezo_plugin.tasks.example import Batch, Example

PROMPTS = [[2, 5, 7, 11, 100, 130, 4], [2, 9], [2, *range(20, 40)]]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    config = OPTConfig(
        vocab_size=131,
        hidden_size=64,
        word_embed_proj_dim=64,
        ffn_dim=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    return save_tiny_model(config, str(tmp_path_factory.mktemp("opt")))


def open_tiny(model_path: str, engine_args: dict[str, Any]) -> Any:
    return open_runner(
        model_path,
        dtype="float32",
        skip_tokenizer_init=True,
        mem_fraction_static=0.3,
        max_total_tokens=512,
        **engine_args,
    )


def prompt_logprobs(model_runner: ModelRunner, prompts: list[list[int]]) -> list[torch.Tensor]:
    """Score each token of the prompts but the first."""
    examples = [Example(tuple(prompt[:1]), (tuple(prompt[1:]),), 0) for prompt in prompts]
    scores = FrozenCarrier(model_runner).score(Batch.of(examples))
    return [torch.from_numpy(logprobs) for (logprobs,) in scores]


def test_scores_like_transformers_and_can_be_built_again(
    model_path: str, engine_args: dict[str, Any], atol: float
) -> None:
    reference = load_reference(model_path)
    for _ in range(2):
        with open_tiny(model_path, engine_args) as model_runner:
            for _ in range(2):  # nothing is left in the caches
                for prompt, scored in zip(PROMPTS, prompt_logprobs(model_runner, PROMPTS), strict=True):
                    rows = reference_logprobs(reference, prompt)[:-1]
                    expected = rows.gather(1, torch.tensor(prompt[1:])[:, None])[:, 0]
                    torch.testing.assert_close(scored.double(), expected, rtol=0, atol=atol)


def test_layers_share_one_layers_keys_and_values(model_path: str, engine_args: dict[str, Any]) -> None:
    with open_tiny(model_path, engine_args) as model_runner:
        pool = model_runner.token_to_kv_pool
        assert len(pool.k_buffer) == len(pool.v_buffer) == 2
        assert {pool.get_key_buffer(layer).data_ptr() for layer in (0, 1)} == {pool.k_buffer[0].data_ptr()}
        assert pool.v_buffer[0].data_ptr() == pool.v_buffer[1].data_ptr() != pool.k_buffer[0].data_ptr()


def test_variables_of_a_launcher_change_nothing(
    model_path: str, engine_args: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = {
        "RANK": "3",
        "LOCAL_RANK": "3",
        "WORLD_SIZE": "8",
        "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "1",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    for name, value in launcher.items():
        monkeypatch.setenv(name, value)
    with open_tiny(model_path, engine_args) as model_runner:
        assert len(prompt_logprobs(model_runner, PROMPTS)) == len(PROMPTS)


def test_a_port_that_is_taken_is_not_used(
    model_path: str, engine_args: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    init_new = PortArgs.init_new
    ports = []

    def with_taken_port_first(*args: Any, **kwargs: Any) -> PortArgs:
        port_args = init_new(*args, **kwargs)
        if not ports:
            port_args.nccl_port = taken.getsockname()[1]
        ports.append(port_args.nccl_port)
        return port_args

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(PortArgs, "init_new", with_taken_port_first)
        with open_tiny(model_path, engine_args) as model_runner:
            assert len(prompt_logprobs(model_runner, PROMPTS)) == len(PROMPTS)
    assert len(ports) == 2


def test_a_dtype_is_kept(model_path: str, engine_args: dict[str, Any]) -> None:
    with open_runner(
        model_path, skip_tokenizer_init=True, mem_fraction_static=0.3, max_total_tokens=512, **engine_args
    ) as model_runner:
        assert model_runner.dtype == torch.float32  # of the checkpoint; SGLang's auto would take fp16


def test_out_of_memory_is_one_line(model_path: str, engine_args: dict[str, Any]) -> None:
    lines = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139 GiB.\nSee more"
    with (
        pytest.raises(UserError, match=r"^CUDA out of memory: pass a smaller --batch-size or --dtype, or"),
        open_tiny(model_path, engine_args),
    ):
        raise torch.OutOfMemoryError(lines)


def test_a_failed_build_leaves_the_process_usable(
    model_path: str, engine_args: dict[str, Any], tmp_path: Path
) -> None:
    broken = save_tiny_model(load_reference(model_path).config, str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"not a checkpoint")
    with pytest.raises(Exception, match="header"), open_tiny(broken, engine_args):
        pass
    with open_tiny(model_path, engine_args) as model_runner:
        assert len(prompt_logprobs(model_runner, PROMPTS)) == len(PROMPTS)


def test_stock_sglang_is_refused_before_any_weight_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(series, "state", lambda target: "stock")
    cure = re.escape("is not patched: python -m sglang_mezo_plugin.patch apply")
    with pytest.raises(PatchError, match=cure), open_runner("/no/such/model"):
        pass
