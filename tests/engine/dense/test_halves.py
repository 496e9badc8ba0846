"""What would let weights be read past their perturbation is refused, not trained a little wrong."""

from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from sglang.srt.layers.vocab_parallel_embedding import VocabParallelEmbedding
from torch import nn

from sglang_mezo_plugin.engine.dense import halves
from sglang_mezo_plugin.engine.dense.carrier import DenseCarrier
from sglang_mezo_plugin.engine.session import open_session
from sglang_mezo_plugin.errors import UserError


def score(carrier: DenseCarrier) -> None:
    carrier.score_pairs(tiny_models.make_batch(2), [1], 1e-3)


def test_an_embedding_that_reads_its_table_itself(
    tmp_path: Path, engine_args: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As SGLang's kernel for a shard of the vocabulary does, which is therefore switched off."""
    path = tiny_models.saved("llama", tmp_path)
    with tiny_models.opened(path, "float32", engine_args) as runner:
        monkeypatch.setattr(VocabParallelEmbedding, "forward", lambda self, ids: self.weight[ids])
        with pytest.raises(UserError, match=r"embed_tokens does not look its rows up .* --mode lora"):
            score(DenseCarrier(runner, Path(path)))
        monkeypatch.undo()
        table = next(m for m in runner.model.modules() if isinstance(m, VocabParallelEmbedding))
        assert not table._use_triton_embedding(torch.zeros(1, dtype=torch.int64))


def test_a_norm_that_is_computed_elsewhere(
    tmp_path: Path, engine_args: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a kernel that fuses it with what comes before."""
    path = tiny_models.saved("opt", tmp_path)
    with tiny_models.opened(path, "float32", engine_args) as runner:
        norm = next(module for module in runner.model.modules() if isinstance(module, nn.LayerNorm))
        carrier = DenseCarrier(runner, Path(path))
        monkeypatch.setattr(norm, "forward", lambda x: x)
        with pytest.raises(UserError, match=r"layer_norm.*no module's forward reads them"):
            score(carrier)


def test_all_reduces_are_not_fused_with_norms(tmp_path: Path, engine_args: dict[str, Any]) -> None:
    """Where several GPUs share the weights, SGLang would fuse them by itself."""
    path = Path(tiny_models.saved("llama", tmp_path))
    examples = tiny_models.make_batch(2).examples
    words = [word for name, value in engine_args.items() for word in (f"--{name.replace('_', '-')}", value)]
    with open_session(
        path, None, trains=True, examples=examples, batch_size=2, dtype=torch.float32, server_args=words
    ) as session:
        runner = session.carrier._scorer._runner
        assert runner.server_args.enforce_disable_flashinfer_allreduce_fusion


def test_how_many_layers_are_perturbed_at_once_does_not_matter(
    tmp_path: Path, engine_args: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All at once, as for a model this small; each by itself; two or three at a time."""
    path, batch = tiny_models.saved("opt", tmp_path), tiny_models.make_batch(3)
    found = []
    for scratch in (halves.SCRATCH, 1, 100_000):
        monkeypatch.setattr(halves, "SCRATCH", scratch)
        with tiny_models.opened(path, "float32", engine_args) as runner:
            carrier, pairs = DenseCarrier(runner, Path(path)), []
            for step in range(3):
                pairs += carrier.score_pairs(batch, [step, 9], 1e-2)
                carrier.step([(step, 1e-2)], decay=0.9, rounding_seed=step)
            pairs.append((carrier.score(batch), carrier.score_at(batch, 5, -1e-2)))
            groups = len(carrier._halves._groups)
        found.append((groups, pairs))
    (most, wanted), *others = found
    assert most == 1 < others[1][0] < others[0][0] == 2 * 4
    for _, pairs in others:
        for ours, theirs in zip(pairs, wanted, strict=True):
            assert all(
                tiny_models.largest_difference(*sides) == 0 for sides in zip(ours, theirs, strict=True)
            )


def test_a_kernel_that_reads_a_weight_past_its_module(
    tmp_path: Path, engine_args: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As SGLang's dual GEMM of gate and up does on some GPUs, for few tokens."""
    path, batch = tiny_models.saved("llama", tmp_path), tiny_models.make_batch(3)
    with tiny_models.opened(path, "float32", engine_args) as runner:
        carrier = DenseCarrier(runner, Path(path))
        assert all(module.dual_gemm.mode is None for module in runner.model.modules() if is_mlp(module))
        (before,) = carrier.score_pairs(batch, [1], 1e-2)
        mlp = runner.model.model.layers[1].mlp
        weight = mlp.gate_up_proj.weight
        monkeypatch.setattr(mlp.gate_up_proj, "forward", lambda x: (x @ weight.t(), None))
        carrier._halves._unused.clear()
        with pytest.raises(UserError, match=r"layers\.1\.mlp\.gate_up_proj\.weight: a kernel .* --mode lora"):
            carrier.score_pairs(batch, [1], 1e-2)
        monkeypatch.undo()
        (after,) = carrier.score_pairs(batch, [1], 1e-2)
    for side in range(2):
        assert tiny_models.largest_difference(before[side], after[side]) == 0


def is_mlp(module: nn.Module) -> bool:
    return hasattr(module, "dual_gemm")


def test_scores_that_are_nan_by_themselves(tmp_path: Path, engine_args: dict[str, Any]) -> None:
    path = tiny_models.saved("llama", tmp_path)
    with tiny_models.opened(path, "float32", engine_args) as runner:
        carrier = DenseCarrier(runner, Path(path))
        carrier.step([(1, 1e38), (2, 1e38)], decay=1.0, rounding_seed=1)
        ((plus, _),) = carrier.score_pairs(tiny_models.make_batch(2), [1], 1e-3)
        assert any(torch.tensor(option).isnan().any() for options in plus for option in options)
