"""Tensors of a checkpoint that the engine leaves aside while it loads.

A model's `load_weights` may skip what it has no parameter for, without a word: the model is then another one.
So it is watched: every tensor that it is given must reach a parameter, or be one that transformers has no
use for either.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from sglang.srt.model_loader.loader import DefaultModelLoader
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sglang_mezo_plugin.errors import UserError

TENSORS = ("Tensor", "List[Tensor]")  # as operations' schemas call them
# Never weights: frequencies and masks that old checkpoints have among their tensors.
COMPUTED = re.compile(r"rotary_emb\.inv_freq$|\.masked_bias$|(^|\.)position_ids$")


class LoadingWatch:
    """What has become of a checkpoint's tensors, and of the parameters that were made of them.

    untaken: names of tensors that no operation read. converted: addresses of parameters that loading itself
    has read, to make others of them (a quantised weight, MLA's absorbed projections).
    """

    def __init__(self) -> None:
        self.untaken: set[str] = set()
        self.converted: set[int] = set()
        self._sources: dict[int, list[tuple[str, weakref.ref[torch.Tensor]]]] = {}

    def given(self, weights: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield a loader's tensors, each to be looked for in what is computed with it."""
        for name, tensor in weights:
            if tensor.numel():
                self.untaken.add(name)
                # A name whose tensor is gone has had its chance: its memory may serve the next one.
                alive = [entry for entry in self._sources.get(_address(tensor), ()) if entry[1]() is not None]
                self._sources[_address(tensor)] = [*alive, (name, weakref.ref(tensor))]
            yield name, tensor

    def read(self, tensor: torch.Tensor, parameters: set[int]) -> None:
        address = _address(tensor)
        for name, source in self._sources.get(address, ()):
            whole = source()
            if whole is None or _overlap(tensor, whole):
                self.untaken.discard(name)
        if address in parameters:
            self.converted.add(address)

    def keep(self, parameters: Iterable[torch.Tensor]) -> None:
        """Note tensors that became parameters as they are, which no operation shows."""
        for parameter in parameters:
            self.read(parameter.data, set())


class _Reads(TorchDispatchMode):
    """Tells a watch of each tensor that an operation reads. Views and questions read nothing."""

    def __init__(self, watch: LoadingWatch, parameters: set[int]) -> None:
        super().__init__()
        self._watch, self._parameters = watch, parameters

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if reads(func):
            # On a GPU, SGLang moves parameters about as they are: that makes nothing else of them.
            moves = func is torch.ops.aten.copy_.default and _are_alike(*args[:2])
            for tensor in sources_of(func, args, kwargs or {}):
                self._watch.read(tensor, set() if moves else self._parameters)
        return func(*args, **(kwargs or {}))


@contextmanager
def watched_loading() -> Iterator[LoadingWatch]:
    """Let models that are loaded meanwhile be watched."""
    watch = LoadingWatch()
    load, postprocess = DefaultModelLoader.load_weights_only, DefaultModelLoader.postprocess_weights
    submit = ThreadPoolExecutor.submit

    def load_watched(
        model: torch.nn.Module, weights: Iterable[tuple[str, torch.Tensor]], device: Any
    ) -> None:
        with _Reads(watch, parameters := set()):
            # A mode is a thread's own, and some models load their experts in several.
            ThreadPoolExecutor.submit = _submit_under(submit, watch, parameters)
            try:
                load(model, watch.given(weights), device)
            finally:
                ThreadPoolExecutor.submit = submit
        watch.keep(model.parameters())

    def postprocess_watched(model: torch.nn.Module, device: Any) -> None:
        with _Reads(watch, {_address(parameter) for parameter in model.parameters()}):
            postprocess(model, device)

    DefaultModelLoader.load_weights_only = staticmethod(load_watched)
    DefaultModelLoader.postprocess_weights = staticmethod(postprocess_watched)
    try:
        yield watch
    finally:
        DefaultModelLoader.load_weights_only = staticmethod(load)
        DefaultModelLoader.postprocess_weights = staticmethod(postprocess)


def refuse_dropped(model: torch.nn.Module, untaken: Iterable[str], checkpoint: Path) -> None:
    """Raise UserError, naming the tensors, if one of them is a weight that transformers would use."""
    suspects = {name for name in untaken if not COMPUTED.search(name)}
    if suspects and (dropped := sorted(suspects - _unused_by_transformers(checkpoint, suspects))):
        others = f" and {len(dropped) - 1} more tensors" if len(dropped) > 1 else ""
        raise UserError(
            f"{dropped[0]}{others} of {checkpoint}: SGLang's {type(model).__name__} drops them, so it is "
            "another model: train one of another architecture"
        )


def reads(func: Any) -> bool:
    """Whether an operation computes with its arguments: no view of them, nor a question about them."""
    schema = func._schema
    if schema.is_mutable:
        return True
    return any(str(result.type) in TENSORS and not result.alias_info for result in schema.returns)


def sources_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """Return the tensors that an operation reads: of a copy not the one that is written over."""
    if func is torch.ops.aten.copy_.default:
        args = args[1:]
    return [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]


def _unused_by_transformers(checkpoint: Path, names: set[str]) -> set[str]:
    """Return those that transformers leaves aside too: unexpected names, and copies of tied weights."""
    from transformers import AutoModelForCausalLM

    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            checkpoint, device_map="meta", output_loading_info=True
        )
    except Exception:  # of an architecture that it does not know; then nothing excuses a tensor
        return set()
    ignored = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_unexpected or ()]
    unused = set(found["unexpected_keys"]) | set(model.all_tied_weights_keys)
    return {name for name in names if name in unused or any(rule.search(name) for rule in ignored)}


def _submit_under(
    submit: Callable[..., Future], watch: LoadingWatch, parameters: set[int]
) -> Callable[..., Future]:
    def submit_watched(
        pool: ThreadPoolExecutor, function: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future:
        def under() -> Any:
            with _Reads(watch, parameters):
                return function(*args, **kwargs)

        return submit(pool, under)

    return submit_watched


def _are_alike(target: torch.Tensor, source: torch.Tensor) -> bool:
    return (target.shape, target.dtype) == (source.shape, source.dtype)


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _overlap(part: torch.Tensor, whole: torch.Tensor) -> bool:
    """Whether a tensor lies in another of the same storage: files mapped into memory are one storage."""
    start = whole.data_ptr()
    return start <= part.data_ptr() < start + whole.numel() * whole.element_size()
