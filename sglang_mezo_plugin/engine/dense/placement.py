"""Where each parameter of the checkpoint lies in the engine: fused, sharded, transposed or padded.

The engine's own `load_weights` knows, for every model that it serves. So it is asked: it is given the
checkpoint's tensors without data, and each copy that it would make is noted, by the strides of its source and
destination, and not carried out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.noise import Region, check_parameter_ids


@dataclass(frozen=True)
class Piece:
    """A part of an engine's parameter, and the region of the checkpoint that it holds.

    view: how to see that part, as torch.as_strided takes it: 1-D or 2-D, of the region's shape.
    decays: whether weight decay applies: the checkpoint's parameter has two dimensions or more.
    """

    name: str
    region: Region
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    decays: bool

    @property
    def place(self) -> tuple[Any, ...]:
        """Where in its parameter this part lies."""
        return self.size, self.stride, self.offset

    def of(self, parameter: torch.Tensor) -> torch.Tensor:
        """Return the view of this part of a parameter, or of a scratch buffer of the same layout."""
        return parameter.as_strided(self.size, self.stride, self.offset + parameter.storage_offset())


Pieces = dict[torch.nn.Parameter, tuple[Piece, ...]]


def locate(model: torch.nn.Module, shapes: Mapping[str, torch.Size]) -> Pieces:
    """Return the pieces that each parameter of a model is made of, tied parameters once.

    Raises UserError for a parameter that is loaded otherwise than by copying strided blocks.
    """
    check_parameter_ids(shapes)
    recorder = _CopyRecorder(model.parameters())
    with recorder, torch.no_grad():
        model.load_weights(recorder.sources(shapes))
    for parameter, pieces in recorder.pieces.items():
        if sum(piece.region.rows * piece.region.cols for piece in pieces) > parameter.numel():
            raise UserError(f"{pieces[0].name} shares its memory with others when loaded: use --mode lora")
    return {parameter: tuple(pieces) for parameter, pieces in recorder.pieces.items() if pieces}


def held(pieces: Pieces, name: str) -> list[tuple[Region, torch.Tensor]]:
    """Return what a model holds of a checkpoint's tensor: each region, and its values [rows, cols] there."""
    return [
        (piece.region, piece.of(parameter.data).reshape(piece.region.rows, piece.region.cols))
        for parameter, own in pieces.items()
        for piece in own
        if piece.name == name
    ]


def joined(shape: torch.Size, parts: Sequence[tuple[Region, torch.Tensor]]) -> torch.Tensor:
    """Return a checkpoint's tensor on the CPU, put together again from the values [rows, cols] of regions."""
    whole = torch.empty(shape, dtype=parts[0][1].dtype)
    for region, values in parts:
        target = whole.as_strided((region.rows, region.cols), (region.row_stride, 1), region.offset)
        target.copy_(values)
    return whole


def assemble(pieces: Pieces, shapes: Mapping[str, torch.Size]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the checkpoint's tensors that a model holds, whole, one at a time."""
    for name in dict.fromkeys(piece.name for own in pieces.values() for piece in own):
        yield name, joined(shapes[name], held(pieces, name))


class _CopyRecorder(TorchDispatchMode):
    """Notes what is copied into parameters in place of copying it."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        super().__init__()
        self.pieces: dict[torch.nn.Parameter, list[Piece]] = {}
        self._parameters: dict[int, torch.nn.Parameter] = {}
        self._names: dict[int, tuple[str, torch.Tensor]] = {}
        for parameter in parameters:
            self.pieces[parameter] = []
            self._parameters[_storage(parameter)] = parameter

    def sources(self, shapes: Mapping[str, torch.Size]) -> Iterator[tuple[str, torch.Tensor]]:
        for name, shape in shapes.items():
            with _disable_current_modes():
                source = torch.empty(shape, device="meta")
            self._names[_storage(source)] = (name, source)
            yield name, source

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if args and isinstance(args[0], torch.Tensor) and func._schema.is_mutable:
            parameter = self._parameters.get(_storage(args[0]))
            if parameter is not None:
                if func is torch.ops.aten.copy_.default:
                    self._note(parameter, args[0], args[1])
                return args[0]  # padding that is filled keeps what it has
        return func(*args, **(kwargs or {}))

    def _note(self, parameter: torch.nn.Parameter, target: torch.Tensor, source: torch.Tensor) -> None:
        known = self._names.get(_storage(source))
        if known is None:
            raise UserError(
                f"{list(parameter.shape)} {parameter.dtype}: its checkpoint is converted while it is loaded, "
                "which full-parameter training cannot undo: use --mode lora"
            )
        name, whole = known
        if piece := _piece(name, whole, parameter, target, source):
            # A tied tensor that is stored twice is loaded twice: the last one stays.
            others = [other for other in self.pieces[parameter] if other.place != piece.place]
            self.pieces[parameter] = [*others, piece]


def _piece(
    name: str, whole: torch.Tensor, parameter: torch.Tensor, target: torch.Tensor, source: torch.Tensor
) -> Piece | None:
    if not source.numel():
        return None
    view = list(zip(source.shape, source.stride(), target.stride(), strict=True))
    view.sort(key=lambda dims: -dims[1])  # row by row in the checkpoint, whatever the engine's order
    while len(view) > 2 and _are_one(*view[-2:]):
        view[-2:] = [(view[-2][0] * view[-1][0], *view[-1][1:])]
    if len(view) > 2 or view[-1][1] != 1:
        raise UserError(
            f"{name} of shape {list(whole.shape)} is loaded in more than two dimensions: use --mode lora"
        )
    rows, row_stride = (view[0][0], view[0][1]) if len(view) == 2 else (1, view[-1][0])
    region = replace(
        Region.whole(name, whole.shape),
        offset=source.storage_offset(),
        rows=rows,
        cols=view[-1][0],
        row_stride=row_stride,
    )
    return Piece(
        name=name,
        region=region,
        size=tuple(dims[0] for dims in view),
        stride=tuple(dims[2] for dims in view),
        offset=target.storage_offset() - parameter.storage_offset(),
        decays=whole.dim() > 1,
    )


def _are_one(outer: tuple[int, int, int], inner: tuple[int, int, int]) -> bool:
    """Whether two dimensions (size, stride in source, stride in target) follow one another without a gap."""
    return all(outer[side] == inner[0] * inner[side] for side in (1, 2))


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
