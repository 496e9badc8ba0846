"""Options of the model, and of the GPUs that it takes."""

from dataclasses import dataclass
from typing import Literal

from sglang_mezo_plugin.bounds import bound_of
from sglang_mezo_plugin.cli.declaring import Options, option
from sglang_mezo_plugin.engine.ranks.layout import Layout


@dataclass(frozen=True, kw_only=True)
class Model(Options):
    title = "model"
    description = "and every option of SGLang's own server, by the name that it has there"

    model_path: str = option(help="folder of a Hugging Face checkpoint, or name on the hub")
    tokenizer_path: str | None = option(None, help="folder or name of a tokenizer; default: the model's")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = option(
        "auto", header=200, help="of the weights; auto: the checkpoint's own (default)"
    )
    device: Literal["cpu", "cuda"] | None = option(None, help="default: cuda where there is a GPU")
    context_length: int | None = option(
        None, help="longest prompt with its longest option; default: the model's"
    )


@dataclass(frozen=True, kw_only=True)
class Devices(Options):
    tp_size: int = option(
        Layout.tp_size,
        flags=("--tp-size", "--tp", "--tensor-parallel-size"),
        bound=bound_of(Layout, "tp_size"),
        metavar="N",
        help="GPUs that share the model's weights; default: {default}",
    )
    dp_size: int = option(
        Layout.dp_size,
        flags=("--dp-size", "--dp", "--data-parallel-size"),
        bound=bound_of(Layout, "dp_size"),
        metavar="N",
        help="replicas of the model that share the scoring, on --tp-size GPUs each; default: {default}",
    )

    @property
    def layout(self) -> Layout:
        return Layout(self.tp_size, self.dp_size)


@dataclass(frozen=True, kw_only=True)
class EngineModel(Devices, Model):
    """A model that this process, and those that it starts, load."""


@dataclass(frozen=True, kw_only=True)
class ServedModel(Options):
    model_path: str = option(
        help="folder of the server's model, or name on the hub; with --server its config.json will do"
    )
