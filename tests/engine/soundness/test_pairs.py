"""A stack on which perturbed weights are computed wrong: refused when it is opened, not trained on."""

from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch

from sglang_mezo_plugin.engine.dense.rows import PerturbedRows
from sglang_mezo_plugin.engine.lora import backend
from sglang_mezo_plugin.engine.session import open_session
from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.models.adapter import Adapter


def break_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let looked-up rows be zeros where they are perturbed."""
    answer = PerturbedRows.__torch_function__

    def zeros(self: PerturbedRows, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        before = self.answered
        found = answer(self, func, types, args, kwargs)
        return torch.zeros_like(found) if self.answered > before else found

    monkeypatch.setattr(PerturbedRows, "__torch_function__", zeros)


def break_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what adapters add be wrong where there are two of them."""
    for name in ("add_lora_", "add_lora_by_torch_"):
        monkeypatch.setattr(backend, name, lambda out, x, a, *others: out.add_(len(a) - 1.0))


@pytest.mark.parametrize(("mode", "fault"), [("full", break_embeddings), ("lora", break_adapters)])
def test_a_pair_at_eps_0_is_not_the_model(
    mode: str, fault: Any, tmp_path: Path, engine_args: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, examples = Path(tiny_models.saved("llama", tmp_path)), tiny_models.make_batch(2).examples
    adapter = Adapter.fresh(path, seed=1) if mode == "lora" else None
    words = [f"--{name.replace('_', '-')}={value}" for name, value in engine_args.items()]
    opened = {"trains": True, "examples": examples, "batch_size": 2, "dtype": torch.float32}
    fault(monkeypatch)
    with (
        pytest.raises(
            UserError, match=r"a pair at eps 0 scores -.* where the model scores -.*: pass --tp-size 1"
        ),
        open_session(path, adapter, server_args=words, report=lambda line: None, **opened),
    ):
        pass
    monkeypatch.undo()
    with open_session(path, adapter, server_args=words, report=lambda line: None, **opened) as session:
        assert session.carrier.hit_rate == 0  # what was scored at opening does not count
