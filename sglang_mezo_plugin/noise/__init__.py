"""Counter-based noise: directions that depend on (seed, parameter, element) of the checkpoint alone.

A direction is its seed, 0 <= seed < 2**64; how its elements are distributed, "gaussian" or "rademacher", is
constant in a run, and a property of what draws them.

    Region                where in the checkpoint an engine's tensor lies; Region.whole(name, shape): all
    parameter_id          a parameter's number in the noise; check_parameter_ids: no two may be the same
    Distribution, Moves   the two names; (seed, coefficient) of each direction that weights move along

    StepNumbers           a step's numbers in a device's memory: a seed and eps to probe at, moves, decay.
                          All that follows reads them there when it runs, again if a CUDA graph does it
    UpdatePlan            weights that move together:  W = decay * W + sum of coefficient * z
    PairPlan              the same, and where W + eps z and W - eps z of each are to be written
    gather_pair_into      an embedding: only the rows of W + eps z and W - eps z that are looked up

    plan = PairPlan([(plus, minus, weight, Region.whole("model.decoder.layers.0.fc1.weight", weight.shape))],
                    "gaussian")                                                          # once
    numbers = StepNumbers(weight.device)                                                 # once
    numbers.set(seed, eps)                                                               # each pair
    plan.write(numbers)
    numbers.set(seed, eps, [(last_seed, -lr * projected_grad)], rounding_seed=last_seed)  # each step
    plan.move_and_write(numbers)

Tensors are fp32, fp16 or bf16, 1-D or 2-D, of any strides, on a CPU or a CUDA device, and have just the shape
of their region, gathered rows apart: rows that only pad are left out by passing `weight[:rows]`. Arithmetic
is in fp32, each operation rounded once, and no backend uses a library's logarithm or sine, so the results
have the same bits on every device. Nothing is copied and autograd records nothing. `philox.py` defines the
numbers.

All of this raises ValueError for what does not fit: seeds outside [0, 2**64), another distribution,
coefficients that are not finite in fp32, other dtypes, tensors on different devices, or a region of another
shape than the tensor.
"""

from sglang_mezo_plugin.noise.gather import gather_pair_into
from sglang_mezo_plugin.noise.plans import PairPlan, UpdatePlan
from sglang_mezo_plugin.noise.region import Region, check_parameter_ids, parameter_id
from sglang_mezo_plugin.noise.step_numbers import StepNumbers
from sglang_mezo_plugin.noise.values import Distribution, Moves

__all__ = [
    "Distribution",
    "Moves",
    "PairPlan",
    "Region",
    "StepNumbers",
    "UpdatePlan",
    "check_parameter_ids",
    "gather_pair_into",
    "parameter_id",
]
