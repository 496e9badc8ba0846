"""While weights are probed, the weights themselves are NaN to whoever reads them.

Each module computes with W + eps z and W - eps z in buffers. A kernel that takes a module's weight itself,
past the module's forward, would train a little wrong, and there is one more with each release and each kind
of hardware. So during a probe every parameter points at memory of NaN: what reads it shows in the scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from sglang.srt.models import utils as models_utils

NAN_BYTE = 0xFF  # all bits set: NaN in fp32, fp16 and bf16
# Of modules that choose by these whether a kernel of their own reads the weights of their norms.
FUSED_NORMS = ("use_fused_qk_norm_rope", "use_fused_qk_norm_mrope")


class Shield:
    """Parameters that no one is to read. Extra memory: the size of the largest of them.

    parameters: by name; each keeps its memory, to which it points again after `raised`.
    """

    def __init__(self, parameters: Iterable[tuple[str, torch.nn.Parameter]]) -> None:
        self._own = [(name, parameter, parameter.data) for name, parameter in parameters]
        sizes = [data.numel() * data.element_size() for _, _, data in self._own]
        device = self._own[0][2].device if self._own else "cpu"
        memory = torch.full((max(sizes, default=0),), NAN_BYTE, dtype=torch.uint8, device=device)
        self._nans = [
            memory[:size].view(data.dtype).as_strided(data.shape, data.stride())
            for size, (_, _, data) in zip(sizes, self._own, strict=True)
        ]
        self._hidden = range(len(self._own))

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Let the parameters point at NaN."""
        hidden = self._hidden
        for index in hidden:
            self._own[index][1].data = self._nans[index]
        try:
            yield
        finally:
            for index in hidden:
                _, parameter, data = self._own[index]
                parameter.data = data

    @contextmanager
    def of(self, hidden: Sequence[int]) -> Iterator[None]:
        """Let only some parameters be hidden meanwhile, by their numbers."""
        before, self._hidden = self._hidden, hidden
        try:
            yield
        finally:
            self._hidden = before

    def name(self, number: int) -> str:
        return self._own[number][0]

    def __len__(self) -> int:
        return len(self._own)


def switch_off_fused_kernels(model: torch.nn.Module) -> None:
    """Let modules compute with their own weights where SGLang is known to take them past their forward."""
    for module in model.modules():
        if hasattr(module, "dual_gemm"):
            module.dual_gemm.mode = None
        for name in FUSED_NORMS:
            if getattr(module, name, False):
                setattr(module, name, False)
    models_utils.can_use_fused_inplace_qknorm = _never
    models_utils.can_use_fused_qk_norm_cpu = _never


def _never(*args: object) -> bool:
    return False
