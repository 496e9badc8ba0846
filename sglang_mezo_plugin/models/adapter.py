"""A LoRA adapter as PEFT has it: geometry, fresh parameters, and the folder it is kept in.

PEFT itself decides which modules are adapted: it is applied to the model's architecture without its weights.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from sglang_mezo_plugin.bounds import Bound
from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.models.checkpoint import load_architecture, one_line
from sglang_mezo_plugin.models.peft_files import CONFIG, WEIGHTS, module_path
from sglang_mezo_plugin.models.writing import writing_folder
from sglang_mezo_plugin.noise import (
    Distribution,
    Moves,
    Region,
    StepNumbers,
    UpdatePlan,
    check_parameter_ids,
    parameter_id,
)
from sglang_mezo_plugin.noise.philox import block_words

# Of an adapter of which nothing is said.
RANK, ALPHA = 8, 16
RANK_BOUND = Bound(at_least=1)
ALL_LINEAR = "all-linear"
OTHERS = "choose another adapter, or the model that it was made for"
SAVE_AGAIN = "save the adapter again"
# Of Philox; directions are stream 0, stochastic rounding is stream 1.
INITIAL_STREAM = 2
# Fields of PEFT's configuration that leave B A scale a plain LoRA; any other must have its default.
PLAIN_FIELDS = {
    "r", "lora_alpha", "use_rslora", "fan_in_fan_out", "lora_dropout",
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
    "base_model_name_or_path", "revision", "task_type", "auto_mapping", "inference_mode", "peft_version",
}  # fmt: skip
# Other ways to begin change the base weights too.
PLAIN_BEGINNINGS = (True, False, "gaussian", "orthogonal")


class Adapter:
    """LoRA matrices A [rank, in] and B [out, rank] in fp32, by their names in PEFT's files.

    distribution: of the directions along which they move.
    """

    def __init__(
        self,
        config: LoraConfig,
        parameters: Mapping[str, torch.Tensor],
        distribution: Distribution = "gaussian",
    ) -> None:
        self.config = config
        self.distribution = distribution
        self.tensors = dict(parameters)
        self.regions = {name: Region.whole(name, tensor.shape) for name, tensor in self.tensors.items()}
        self._update: UpdatePlan | None = None
        check_parameter_ids(self.tensors)

    @classmethod
    def fresh(
        cls,
        checkpoint: Path,
        seed: int,
        rank: int = RANK,
        alpha: float = ALPHA,
        target_modules: str | Sequence[str] | None = None,
        layers_to_transform: Sequence[int] | None = None,
        distribution: Distribution = "gaussian",
    ) -> Adapter:
        """Return the adapter that PEFT would begin with: A uniform as by Kaiming, B zero.

        A's numbers depend on (seed, parameter, element) alone; 0 <= seed < 2**64. target_modules: names of
        linear modules in the decoder layers, or "all-linear"; PEFT's choice for the architecture if left out.
        Raises UserError for modules or layers that the model lacks, and for a rank below 1.
        """
        RANK_BOUND.check("lora_rank", rank)
        model = load_architecture(checkpoint)
        linear = _linear_modules(model)
        config = LoraConfig(
            r=rank,
            lora_alpha=alpha,
            target_modules=_checked_targets(model, linear, target_modules),
            layers_to_transform=_checked_layers(model, layers_to_transform),
            base_model_name_or_path=str(checkpoint),
            task_type="CAUSAL_LM",
        )
        try:
            shapes = _apply(config, model)
        except ValueError as error:
            raise UserError(f"--lora-target-modules: {one_line(error)}: {_choose(linear)}") from None
        parameters = {name: _initial(name, shape, seed) for name, shape in shapes.items()}
        return cls(config, parameters, distribution)

    @classmethod
    def load(cls, folder: Path, checkpoint: Path, distribution: Distribution = "gaussian") -> Adapter:
        """Read a PEFT folder.

        Raises UserError for one that is incomplete or damaged, that is not of this model, or that is not a
        plain LoRA of linear modules in the decoder layers.
        """
        config, parameters = _read(folder)
        model = load_architecture(checkpoint)
        linear = _linear_modules(model)
        misfit = f"{folder} does not fit {checkpoint}"
        for name in parameters:
            module = module_path(name)
            if module not in linear:
                raise UserError(f"{misfit}: {module} is no linear module of its decoder layers: {OTHERS}")
        try:
            shapes = _apply(config, model)
        except ValueError as error:
            raise UserError(f"{misfit}: {one_line(error)}: {OTHERS}") from None
        for name in sorted(shapes.keys() | parameters.keys()):
            found = list(parameters[name].shape) if name in parameters else "absent"
            wanted = list(shapes[name]) if name in shapes else "absent"
            if found != wanted:
                raise UserError(f"{misfit}: {name} is {found}, but should be {wanted}: {OTHERS}")
        return cls(config, {name: parameters[name].float() for name in shapes}, distribution)

    def to(self, device: str | torch.device) -> Adapter:
        """Move the parameters to a device, and return the adapter."""
        self.tensors = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        self._update = None
        return self

    def parameters(self) -> dict[str, tuple[torch.Tensor, Region]]:
        """Return each parameter with its region, to be changed in place."""
        return {name: (tensor, self.regions[name]) for name, tensor in self.tensors.items()}

    def step(self, moves: Moves, decay: float, rounding_seed: int) -> None:
        """Take a step, as `carrier.Carrier` does."""
        if self._update is None:
            parts = [(*parameter, True) for parameter in self.parameters().values()]
            self._update = UpdatePlan(parts, self.distribution)
        device = next(iter(self.tensors.values())).device
        self._update.accumulate_(StepNumbers.moving(device, moves, rounding_seed, decay))

    def written(self) -> None:
        """Nothing to do: whoever uses the parameters reads them when needed."""

    def save(self, folder: Path) -> None:
        """Write a PEFT folder: the same bytes for the same adapter.

        It appears when it is complete, in place of one of the same name. UserError if it cannot be written.
        """
        config = copy(self.config)
        config.inference_mode = True
        for option in ("target_modules", "exclude_modules"):
            if isinstance(names := getattr(config, option), set):
                setattr(config, option, sorted(names))
        tensors = {name: tensor.cpu().contiguous() for name, tensor in self.tensors.items()}
        with writing_folder(folder) as unfinished:
            config.save_pretrained(unfinished)
            save_file(tensors, unfinished / WEIGHTS, metadata={"format": "pt"})


def _linear_modules(model: PreTrainedModel) -> set[str]:
    """Return the paths of what can be adapted: below a numbered layer, so not the head, nor an embedding."""
    return {
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and re.search(r"\.\d+\.", name)
    }


def _checked_targets(
    model: PreTrainedModel, linear: set[str], targets: str | Sequence[str] | None
) -> list[str] | None:
    """Return names of modules. Refuses what PEFT would skip, if another name matches, or adapt elsewhere."""
    if targets is None:
        return None
    names = [targets] if isinstance(targets, str) else list(targets)
    if names == [ALL_LINEAR]:
        return _last_names(linear)
    for target in names:
        matched = {name for name, _ in model.named_modules() if f".{name}".endswith(f".{target}")}
        if not matched:
            raise UserError(f"--lora-target-modules: the model has no {target!r}: {_choose(linear)}")
        if others := sorted(matched - linear):
            raise UserError(
                f"--lora-target-modules: {others[0]} is no linear module of the decoder layers: "
                f"{_choose(linear)}"
            )
    return names


def _checked_layers(model: PreTrainedModel, layers: Sequence[int] | None) -> list[int] | None:
    if layers is None:
        return None
    count = model.config.num_hidden_layers
    for layer in layers:
        if not 0 <= layer < count:
            raise UserError(f"--lora-layers-to-transform: no layer {layer}: choose from 0 to {count - 1}")
    return list(layers)


def _last_names(modules: set[str]) -> list[str]:
    return sorted({name.rpartition(".")[2] for name in modules})


def _choose(linear: set[str]) -> str:
    return f"choose from {', '.join(_last_names(linear))}, or {ALL_LINEAR} alone"


def _apply(config: LoraConfig, model: PreTrainedModel) -> dict[str, torch.Size]:
    """Return the shape of each of an adapter's tensors, by name, in the order of the model's modules.

    Changes the model, and writes into the config which modules PEFT has chosen. ValueError if it finds none.
    """
    config.fan_in_fan_out = any(isinstance(module, Conv1D) for module in model.modules())
    trial = copy(config)
    trial.base_model_name_or_path = None  # PEFT warns if it is not the name of this model
    trial.init_lora_weights = True
    with torch.device("meta"):
        adapted = get_peft_model(model, trial)
    config.target_modules = trial.target_modules
    tensors = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    return {name: tensor.shape for name, tensor in tensors.items()}


def _read(folder: Path) -> tuple[LoraConfig, dict[str, torch.Tensor]]:
    for file in (WEIGHTS, CONFIG):
        if not (folder / file).is_file():
            raise UserError(f"{folder} has no {file}: name the folder of a PEFT adapter")
    try:
        config = LoraConfig.from_pretrained(folder)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder / CONFIG} cannot be read ({one_line(error)}): {SAVE_AGAIN}") from None
    _refuse_variants(folder / CONFIG, config)
    try:
        return config, load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{folder / WEIGHTS} cannot be read ({error}): {SAVE_AGAIN}") from None


def _refuse_variants(file: Path, config: LoraConfig) -> None:
    defaults = LoraConfig().to_dict()
    for field, found in {**config.to_dict(), "peft_type": config.peft_type.value}.items():
        plain = field in PLAIN_FIELDS or not found or found == defaults.get(field)
        if field == "init_lora_weights":
            plain = found in PLAIN_BEGINNINGS
        if not plain:
            raise UserError(f"{file}: {field} is {found}, but only plain LoRA can be trained: choose another")


def _initial(name: str, shape: torch.Size, seed: int) -> torch.Tensor:
    """Kaiming's uniform distribution with a = sqrt(5), as torch.nn.Linear and PEFT have it; B is zero.

    A is an odd multiple of bound / 2**24 with |A| < bound = 1 / sqrt(in), by the top 24 bits of a word.
    """
    if ".lora_B." in name:
        return torch.zeros(shape)
    blocks = np.arange(-(-shape.numel() // 4))
    words = block_words(seed, parameter_id(name), blocks, INITIAL_STREAM).ravel()[: shape.numel()]
    odd = 2 * (words >> 8).astype(np.int32) + 1 - 2**24
    bound = 1 / math.sqrt(shape[1])
    return torch.from_numpy(odd.astype(np.float32) * np.float32(bound / 2**24)).reshape(shape)
