"""Runs the Triton backend; by the interpreter only in a process of its own, since import decides which.

python triton_worker.py FILE: write the results of the two `run`, and the known answers, to FILE.
python triton_worker.py FILE steps: write those of `number_cases.run`.

Triton's interpreter rounds otherwise than a GPU: a fused multiply-add twice, to bf16 by cutting off, and
towards zero to infinity where a value is too large. Here it is made to follow IEEE 754.
"""

import sys

import known_answers
import noise_cases
import number_cases
import numpy as np
import plan_cases
import torch
import triton
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from sglang_mezo_plugin.noise import backends, cuda, philox
from sglang_mezo_plugin.noise.cuda.numbers import philox4x32


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


def fma(builder: InterpreterBuilder, x: TensorHandle, y: TensorHandle, z: TensorHandle) -> TensorHandle:
    return TensorHandle(philox.fused_multiply_add(x.data, y.data, z.data), z.dtype.scalar)


def to_nearest(builder: InterpreterBuilder, source: TensorHandle, dtype: tl.dtype) -> TensorHandle:
    """Round fp32 to fp16 or bf16, which the interpreter keeps as its bits."""
    scalar = dtype.scalar
    rounded = torch.from_numpy(source.data).to(torch.float16 if scalar == tl.float16 else torch.bfloat16)
    data = rounded.numpy() if scalar == tl.float16 else rounded.view(torch.int16).numpy().view(np.uint16)
    return TensorHandle(data, scalar)


def toward_zero(
    builder: InterpreterBuilder, source: TensorHandle, dtype: tl.dtype, rounding: object
) -> TensorHandle:
    """Round fp32 to fp16."""
    nearest = source.data.astype(np.float16)
    too_far = (np.abs(nearest.astype(np.float32)) > np.abs(source.data)) & np.isfinite(source.data)
    return TensorHandle(np.where(too_far, np.nextafter(nearest, np.float16(0)), nearest), dtype.scalar)


if __name__ == "__main__":
    InterpreterBuilder.create_fma = fma
    InterpreterBuilder.create_fp_trunc = to_nearest
    InterpreterBuilder.create_fp_to_fp = toward_zero
    backends.backend_of = lambda tensor: cuda
    if sys.argv[2:] == ["steps"]:
        results = number_cases.run("cpu")
    else:
        results = noise_cases.run("cpu") | plan_cases.run("cpu") | {"words": words("cpu")}
    torch.save(results, sys.argv[1])
