"""Groups of unlike tensors for plans, and what the reference in numpy says of each."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import noise_cases
import torch
from noise_cases import DECAY, EPS, MOVES, REGIONS, ROUNDING_SEED, SEED

from sglang_mezo_plugin.noise import Distribution, PairPlan, Region, StepNumbers, UpdatePlan

# The memory of a tensor of `rows` x `cols`, and where the tensor lies in it.
LAYOUTS: dict[str, tuple[Callable[[int, int], tuple[int, ...]], Callable[[torch.Tensor], torch.Tensor]]] = {
    "whole": (lambda rows, cols: (rows, cols), lambda memory: memory),
    "flat": (lambda rows, cols: (cols,), lambda memory: memory),
    "shifted": (lambda rows, cols: (cols + 1,), lambda memory: memory[1:]),
    "wider": (lambda rows, cols: (rows, cols + 24), lambda memory: memory[:, 8:-16]),
    "spread": (lambda rows, cols: (rows, 2 * cols), lambda memory: memory[:, ::2]),
    "transposed": (lambda rows, cols: (cols, rows), lambda memory: memory.t()),
}


LARGE = Region.whole("layers.0.fc1.weight", (2, 2304))


class Part(NamedTuple):
    region: Region
    decays: bool
    weight: str  # one of the layouts, as the next two
    plus: str
    minus: str


# All aligned: several tiles a row, more tiles than a program has, one row; little aligned, and one empty; one
# alone.
GROUPS = {
    "aligned": [
        Part(LARGE.column_slice(64, 2176), True, "wider", "wider", "whole"),
        Part(Region.whole("layers.0.fc2.weight", (40, 256)), False, "whole", "whole", "whole"),
        Part(Region.whole("layers.0.norm.weight", (256,)), False, "flat", "flat", "flat"),
    ],
    "mixed": [
        Part(REGIONS["whole"], False, "whole", "whole", "whole"),
        Part(REGIONS["far"], True, "transposed", "whole", "spread"),
        Part(REGIONS["bias"], False, "shifted", "flat", "shifted"),
        Part(REGIONS["whole"].row_slice(12, 12), True, "whole", "whole", "whole"),
        Part(LARGE.column_slice(3, 2100), True, "whole", "wider", "transposed"),
        Part(REGIONS["narrow"], False, "spread", "transposed", "whole"),
    ],
    "single": [Part(REGIONS["far"], True, "whole", "whole", "whole")],
}
FUNCTIONS = ("write", "update", "move and write")
KINDS = [("gaussian", dtype) for dtype in noise_cases.DTYPES] + [("rademacher", torch.float16)]


class Placed(NamedTuple):
    """Memory, filled with NaN but for the weight, and the tensor in it."""

    memory: torch.Tensor
    tensor: torch.Tensor


def placed(layout: str, dtype: torch.dtype, region: Region, device: str) -> Placed:
    shape, view = LAYOUTS[layout]
    memory = torch.full(shape(region.rows, region.cols), torch.nan, dtype=dtype, device=device)
    return Placed(memory, view(memory))


def fill(place: Placed, values: torch.Tensor) -> None:
    place.tensor.copy_(values.reshape(place.tensor.shape))


class Group(NamedTuple):
    name: str
    distribution: Distribution
    parts: list[Part]
    planes: list[list[Placed]]  # of each part: weight, plus, minus

    def memory(self, function: str) -> dict[str, torch.Tensor]:
        """All that the function may have written, and what lies around, on the CPU."""
        return {
            f"{self.name}/{function}/{index}/{plane}": place.memory.cpu()
            for index, places in enumerate(self.planes)
            for plane, place in zip(("weight", "plus", "minus"), places, strict=True)
        }


def groups(device: str) -> Iterator[Group]:
    """Each group for each kind; the weights of a mixed group and its two outputs have three dtypes."""
    for name, parts in GROUPS.items():
        for distribution, dtype in KINDS:
            start = noise_cases.DTYPES.index(dtype)
            step = 1 if name == "mixed" else 0
            dtypes = [noise_cases.DTYPES[(start + step * plane) % 3] for plane in range(3)]
            planes = [
                [placed(*pair, part.region, device) for pair in zip(part[2:], dtypes, strict=True)]
                for part in parts
            ]
            for part, (weight, _, _) in zip(parts, planes, strict=True):
                fill(weight, noise_cases.weights(part.region, dtype))
            yield Group(f"{name}-{distribution}-{str(dtype)[6:]}", distribution, parts, planes)


def run(device: str) -> dict[str, torch.Tensor]:
    """Write, update, and both at once, each on weights of its own; the results are on the CPU."""
    results = {}
    for function in FUNCTIONS:
        for group in groups(device):
            numbers = StepNumbers(device)
            numbers.set(SEED, EPS, MOVES, ROUNDING_SEED, DECAY)
            if function == "write":
                pair_plan(group).write(numbers)
            elif function == "update":
                update_plan(group).accumulate_(numbers)
            else:
                pair_plan(group).move_and_write(numbers)
            results |= group.memory(function)
    return results


def update_plan(group: Group) -> UpdatePlan:
    pairs = zip(group.parts, group.planes, strict=True)
    parts = [(planes[0].tensor, part.region, part.decays) for part, planes in pairs]
    return UpdatePlan(parts, group.distribution)


def pair_plan(group: Group) -> PairPlan:
    parts = [
        (plus.tensor, minus.tensor, weight.tensor, part.region)
        for part, (weight, plus, minus) in zip(group.parts, group.planes, strict=True)
    ]
    return PairPlan(parts, group.distribution, [part.decays for part in group.parts])


def expected() -> dict[str, torch.Tensor]:
    """What `run` must return, by the reference and by torch's rounding to nearest."""
    results = {}
    for function in FUNCTIONS:
        for group in groups("cpu"):
            for part, (weight, *outs) in zip(group.parts, group.planes, strict=True):
                values = noise_cases.weights(part.region, weight.tensor.dtype)
                if function != "write":
                    decay = DECAY if part.decays else 1.0
                    values = noise_cases.moved(values, part.region, group.distribution, decay)
                    fill(weight, values)
                if function != "update":
                    pair = noise_cases.pair(values, part.region, group.distribution)
                    for out, written in zip(outs, pair, strict=True):
                        fill(out, written)
            results |= group.memory(function)
    return results
