"""Options of the data: examples of tasks, and questions whose answers are rewarded."""

from collections.abc import Sequence
from dataclasses import dataclass

from sglang_mezo_plugin.bounds import Bound
from sglang_mezo_plugin.cli.declaring import Options, option
from sglang_mezo_plugin.tasks.registry import TASKS
from sglang_mezo_plugin.training.objectives import OBJECTIVES

FIRST_N = "use the first N; default: all"
NO_EVALUATION = "default: no evaluation"


@dataclass(frozen=True, kw_only=True)
class Data(Options):
    title = "data"
    description = "files (.jsonl, .json, .csv, .tsv, .parquet), or data sets of the hub as name/config:split"

    task: str = option(
        "records",
        choices=tuple(TASKS),
        help='records (default): rows {"prompt", "completion"}, {"prompt", "options", "label"} or '
        '{"messages"}; sst2: rows {"text" or "sentence", "label"}',
    )
    prompt_template: str | None = option(None, metavar="TEXT", help='text around each prompt: "{} It was"')
    truncate_prompts: bool = option(False, help="drop the beginning of prompts that are too long")
    append_eos: bool = option(False, help="end completions with the tokenizer's end of text")
    objective: str | None = option(
        None,
        choices=tuple(OBJECTIVES),
        header=210,
        help="completion: cross-entropy of the right text; classification: cross-entropy over the options' "
        "mean log-probabilities (default where there are options); accuracy: minus the share that is right",
    )


@dataclass(frozen=True, kw_only=True)
class Files(Options):
    """What is learnt from, and what is evaluated on."""

    train_file: str = option(metavar="FILE")
    eval_file: str | None = option(None, metavar="FILE", help=NO_EVALUATION)
    max_train_examples: int | None = option(None, metavar="N", help=FIRST_N)
    max_eval_examples: int | None = option(None, metavar="N", help=FIRST_N)


@dataclass(frozen=True, kw_only=True)
class TrainingData(Files, Data):
    """Examples to train on."""


@dataclass(frozen=True, kw_only=True)
class EvaluationData(Data):
    """Examples to evaluate, and those that stand before them as demonstrations."""

    eval_file: str = option(metavar="FILE")
    max_eval_examples: int | None = option(None, metavar="N", help=FIRST_N)
    train_file: str | None = option(None, metavar="FILE", help="where in-context examples are drawn from")


@dataclass(frozen=True, kw_only=True)
class Answers(Options):
    """How completions are made and judged."""

    reward: str = option(header=70, metavar="MODULE:FUNCTION", help="(prompt, completion, record)")
    eval_reward: str | None = option(
        None, metavar="MODULE:FUNCTION", help="of the evaluations; default: --reward"
    )
    chat: bool = option(False, header=71, help="a prompt is a user's message in a chat")
    max_new_tokens: int = option(
        256, bound=Bound(at_least=1, finite=True), header=72, help="default: {default}"
    )
    temperature: float = option(
        0.0, bound=Bound(at_least=0, finite=True), header=73, help="default: {default}, greedy"
    )
    top_p: float = option(1.0, bound=Bound(above=0, at_most=1), header=74)
    top_k: int = option(-1, bound=Bound(at_least=1, besides=-1, words="1 or more, or -1 for all"), header=75)
    stop: Sequence[str] = option((), header=76, metavar="TEXT", help="ends a completion")


@dataclass(frozen=True, kw_only=True)
class Questions(Answers, Files):
    title = "data"
    description = 'files of rows {"prompt"} or {"messages"}, with what the reward needs besides'
