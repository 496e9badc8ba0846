"""Runs the Triton backend; by the interpreter only in a process of its own, since import decides which.

python triton_worker.py FILE: write the results of `noise_cases.run`, and the known answers, to FILE.
"""

import sys

import known_answers
import noise_cases
import numpy as np
import torch
import triton
import triton.language as tl

from sglang_mezo_plugin import noise
from sglang_mezo_plugin.noise import cuda
from sglang_mezo_plugin.noise.cuda_noise import philox4x32


@triton.jit
def _words_kernel(inputs, outputs):
    row = tl.program_id(0) * 8 + tl.arange(0, 1)
    c0, c1, c2, c3, k0, k1 = (
        tl.load(inputs + row).to(tl.uint32, bitcast=True),
        tl.load(inputs + row + 1).to(tl.uint32, bitcast=True),
        tl.load(inputs + row + 2).to(tl.uint32, bitcast=True),
        tl.load(inputs + row + 3).to(tl.uint32, bitcast=True),
        tl.load(inputs + row + 4).to(tl.uint32, bitcast=True),
        tl.load(inputs + row + 5).to(tl.uint32, bitcast=True),
    )
    w0, w1, w2, w3 = philox4x32(c0, c1, c2, c3, k0, k1)
    tl.store(outputs + row, w0.to(tl.int32, bitcast=True))
    tl.store(outputs + row + 1, w1.to(tl.int32, bitcast=True))
    tl.store(outputs + row + 2, w2.to(tl.int32, bitcast=True))
    tl.store(outputs + row + 3, w3.to(tl.int32, bitcast=True))


def words(device: str) -> torch.Tensor:
    """Philox's words for the known answers' counters and keys: int32 [answers, 4]."""
    inputs = np.zeros((len(known_answers.KEYS), 8), np.uint32)
    inputs[:, :4] = known_answers.table(known_answers.COUNTERS)
    inputs[:, 4:6] = known_answers.table(known_answers.KEYS)
    inputs = torch.from_numpy(inputs.view(np.int32)).to(device)
    outputs = torch.zeros_like(inputs)
    _words_kernel[(len(inputs),)](inputs, outputs)
    return outputs[:, :4].cpu()


if __name__ == "__main__":
    noise._backend = lambda tensor: cuda
    torch.save(noise_cases.run("cpu") | {"words": words("cpu")}, sys.argv[1])
