"""What users get wrong, and the one line that they are told. {} stands for the folder of `write_faults`."""

import json
import shutil
from pathlib import Path

from small_runs import verdicts, write_rows

DATA = {
    "no file": ("--train-file {}/none.jsonl", "{}/none.jsonl: no such file, and no data set's name: check"),
    "empty": ("--train-file {}/empty.jsonl", "{}/empty.jsonl: no records in it: name a file"),
    "malformed": (
        "--train-file {}/malformed.jsonl",
        "{}/malformed.jsonl line 3: malformed JSON at column 12 (Unterminated string starting at): write one",
    ),
    "label": (
        "--train-file {}/label.jsonl",
        '{}/label.jsonl line 4: "label" must be an integer from 0 to 2, not 3: mend or drop this record',
    ),
    "long": (
        "--eval-file {}/long.jsonl",
        "{}/long.jsonl line 2: 400 tokens of prompt and 8 of the longest option exceed the context of 160: "
        "shorten the record, or pass --truncate-prompts",
    ),
    "option": (
        "--train-file {}/option.jsonl",
        "{}/option.jsonl line 1: option 1 has no tokens: give it some text",
    ),
    "prompt": (
        "--train-file {}/prompt.jsonl",
        "{}/prompt.jsonl line 1: the prompt has no tokens: give it some text",
    ),
    "task": ("--task sst3", "argument --task: invalid choice: 'sst3' (choose from 'records', 'sst2'): see"),
}
MODEL = {
    "no model": ("--model-path {}/none", "--model-path {}/none: no such folder: name a Hugging Face"),
    "no config": ("--model-path {}/bare", "--model-path {}/bare has no config.json: name a Hugging Face"),
    "no tokenizer": (
        "--model-path {}/mute",
        "no tokenizer in {}/mute (it makes no tokens of a text): pass --tokenizer-path",
    ),
    "adapter": ("--lora-path {}/bare", "{}/bare has no adapter_model.safetensors: name the folder of a PEFT"),
    "stages": ("--pp-size 2", "--pp-size 2: a model's layers stay together, on one host: pass --tp-size"),
    "hosts": ("--nnodes 2", "--nnodes 2: a model's layers stay together, on one host: pass --tp-size"),
    "shards": (
        "--tp-size 3",
        "--tp-size 3 does not divide the 4 attention heads, 4 of keys and values, of ",
    ),
    "replicas": ("--dp-size 0", "--dp-size must be 1 or more, not 0"),
    "unknown option": (
        "--stepz 3",
        "unrecognized arguments: --stepz 3: neither an option of this command nor of SGLang: see --help",
    ),
}
METHOD = {
    "slots": (
        "--max-loras-per-batch 1",
        "--max-loras-per-batch must be 2 or more, a slot for each sign: raise it",
    ),
    "graph": ("--cuda-graph", "--cuda-graph needs a GPU: leave it out with --device cpu"),
    "no mode": ("--mode", "argument --mode: expected one argument: see --help"),
    "module": (
        "--lora-target-modules q_proj q_prj",
        "--lora-target-modules: the model has no 'q_prj': choose from fc1, fc2, k_proj, out_proj, q_proj",
    ),
    "layer": ("--lora-layers-to-transform 0 2", "--lora-layers-to-transform: no layer 2: choose from 0 to 1"),
    "rank": ("--lora-rank 0", "--lora-rank must be at least 1, not 0"),
    "eps": ("--eps 0", "--eps must be above 0 and finite, not 0.0"),
    "rate": ("--learning-rate -1", "--learning-rate must be above 0 and finite, not -1.0"),
    "seed": ("--seed -1", "--seed must be in [0, 2**31), not -1"),
    "steps": ("--steps 0", "--steps must be at least 1, not 0"),
    "batch size": ("--batch-size 0", "--batch-size must be 1 or more, not 0"),
    "momentum": (
        "--mode full --optimizer momentum",
        "--optimizer momentum would keep copies of all weights: use sgd with --mode full",
    ),
    "quantised": (
        "--mode full --model-path {}/quantised",
        "{}/quantised/config.json has a quantization_config: name the model with its original weights, or",
    ),
}
FOLDER = {
    "a file": ("--output-dir {}/empty.jsonl", "--output-dir {}/empty.jsonl: File exists: choose another"),
    "not writable": ("--output-dir /proc/run", "--output-dir /proc/run: No such file or directory: choose"),
    "corrupt": (
        "--model-path {}/corrupt --output-dir {}/new",
        "{}/corrupt/model.safetensors is not a safetensors file (",
    ),
}
EVALUATION = {
    "batch size": METHOD["batch size"],
    "no examples": ("--num-shots 2", "--num-shots takes a number of 1 or more, and --train-file to draw"),
    "few examples": (
        "--num-shots 4 --train-file {}/few.jsonl",
        "--num-shots 4: {}/few.jsonl has 3 examples",
    ),
    "no folder": (
        "--predictions-file {}/none/file",
        "--predictions-file {}/none/file: there is no such folder: make it first",
    ),
}
# Each with --resume on a run of 40 steps.
OTHER_RUN = {
    "other rate": (
        "--learning-rate 0.5",
        "--learning-rate was 0.003 and is 0.5: choose another --output-dir",
    ),
    "other mode": (
        "--mode full",
        '--mode was "lora" and is "full": choose another --output-dir, or pass what',
    ),
    "other data": ("--max-train-examples 5", "SHA-256 of the data file train examples was "),
    "other model": ("--model-path {}/other", "SHA-256 of the model file config.json was "),
    "other dtype": ("--dtype bfloat16", '--dtype was "float32" and is "bfloat16": choose another'),
}


def write_faults(folder: Path, model: Path) -> None:
    good = verdicts(5, seed=2)
    write_rows(folder / "empty.jsonl", [])
    write_rows(folder / "few.jsonl", good[:3])
    malformed = [json.dumps(row) + "\n" for row in good]
    malformed[2] = malformed[2][:15] + "\n"
    (folder / "malformed.jsonl").write_text("".join(malformed))
    write_rows(folder / "label.jsonl", [*good[:3], {**good[3], "label": 3}])
    write_rows(folder / "long.jsonl", [good[0], {**good[1], "prompt": 400 * "x"}])
    write_rows(folder / "option.jsonl", [{**good[0], "options": [" a", "", " b"]}])
    write_rows(folder / "prompt.jsonl", [{**good[0], "prompt": ""}])
    (folder / "bare").mkdir()
    for name in ("mute", "corrupt", "quantised", "other"):
        shutil.copytree(model, folder / name)
    for file in (folder / "mute").glob("tokenizer*"):
        file.unlink()
    weights = folder / "corrupt" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    for name, more in (("quantised", {"quantization_config": {"quant_method": "awq"}}), ("other", {"x": 1})):
        config = folder / name / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), **more}))
