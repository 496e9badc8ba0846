"""Headers and options.json, byte by byte as runs of before have them: such runs go on."""

import json
from dataclasses import replace

import pytest
from command_lines import COMMANDS

# Command, words beyond the least, and the header that comes of them.
CASES: dict[str, tuple[str, str, str]] = {
    "lora": (
        "train",
        "--mode lora",
        '{"mode": "lora", "batch_size": 16, "seed": 0, "eps": 0.01, "learning_rate": 0.0001, '
        '"num_pairs": 1, "distribution": "gaussian", "optimizer": "sgd", "weight_decay": 0.0, '
        '"projected_grad_clip": null, "schedule": "constant", "warmup_steps": 0, "lora_rank": 8, '
        '"lora_alpha": 16, "lora_target_modules": null, "lora_layers_to_transform": null, "dtype": '
        '"float32", "objective": "classification"}',
    ),
    "lora adam linear": (
        "train",
        "--mode lora --optimizer adam --schedule linear --warmup-steps 3 --lora-target-modules "
        "all-linear --lora-layers-to-transform 0 1 --lora-alpha 32 --adam-betas 0.8 0.99 --num-pairs 2 "
        "--projected-grad-clip 5 --steps 50",
        '{"mode": "lora", "batch_size": 16, "seed": 0, "eps": 0.01, "learning_rate": 0.0001, '
        '"num_pairs": 2, "distribution": "gaussian", "optimizer": "adam", "weight_decay": 0.0, '
        '"projected_grad_clip": 5.0, "schedule": "linear", "warmup_steps": 3, "adam_betas": [0.8, '
        '0.99], "adam_eps": 1e-08, "steps": 50, "lora_rank": 8, "lora_alpha": 32.0, '
        '"lora_target_modules": "all-linear", "lora_layers_to_transform": [0, 1], "dtype": "float32", '
        '"objective": "classification"}',
    ),
    "lora momentum started": (
        "train",
        "--mode lora --optimizer momentum --lora-path A --eps 1e-3",
        '{"mode": "lora", "batch_size": 16, "seed": 0, "eps": 0.001, "learning_rate": 0.0001, '
        '"num_pairs": 1, "distribution": "gaussian", "optimizer": "momentum", "weight_decay": 0.0, '
        '"projected_grad_clip": null, "schedule": "constant", "warmup_steps": 0, "momentum": 0.9, '
        '"dtype": "float32", "objective": "classification"}',
    ),
    "full cosine": (
        "train",
        "--mode full --schedule cosine --distribution rademacher --weight-decay 10 --batch-size 4 "
        "--seed 5 --lora-path A",
        '{"mode": "full", "batch_size": 4, "seed": 5, "eps": 0.001, "learning_rate": 1e-06, '
        '"num_pairs": 1, "distribution": "rademacher", "optimizer": "sgd", "weight_decay": 10.0, '
        '"projected_grad_clip": null, "schedule": "cosine", "warmup_steps": 0, "steps": 20000, '
        '"dtype": "float32", "objective": "classification"}',
    ),
    "evolve": (
        "evolve",
        "",
        '{"mode": "lora", "seed": 0, "population": 30, "estimator": "mirrored", "shaping": "z-score", '
        '"eps": 0.001, "learning_rate": 0.0005, "distribution": "gaussian", "optimizer": "sgd", '
        '"weight_decay": 0.0, "schedule": "constant", "warmup_steps": 0, "batch_size": 7, "reward": '
        '"m:f", "chat": false, "max_new_tokens": 256, "temperature": 0.0, "top_p": 1.0, "top_k": -1, '
        '"stop": [], "lora_rank": 8, "lora_alpha": 16, "lora_target_modules": null, '
        '"lora_layers_to_transform": null}',
    ),
    "evolve all": (
        "evolve",
        "--population 5 --estimator one-sided --shaping raw --eps 0.01 --learning-rate 0.1 --optimizer "
        "momentum --momentum 0.5 --schedule linear --generations 9 --batch-size 3 --chat --stop x y "
        "--top-k 4 --top-p 0.5 --temperature 1 --lora-target-modules q_proj --max-new-tokens 9",
        '{"mode": "lora", "seed": 0, "population": 5, "estimator": "one-sided", "shaping": "raw", '
        '"eps": 0.01, "learning_rate": 0.1, "distribution": "gaussian", "optimizer": "momentum", '
        '"weight_decay": 0.0, "schedule": "linear", "warmup_steps": 0, "batch_size": 3, "reward": '
        '"m:f", "chat": true, "max_new_tokens": 9, "temperature": 1.0, "top_p": 0.5, "top_k": 4, '
        '"stop": ["x", "y"], "momentum": 0.5, "steps": 9, "lora_rank": 8, "lora_alpha": 16, '
        '"lora_target_modules": ["q_proj"], "lora_layers_to_transform": null}',
    ),
}
OPTIONS = {
    "train": (
        '{"model_path": "M", "tokenizer_path": null, "dtype": "auto", "device": null, '
        '"context_length": null, "tp_size": 1, "dp_size": 1, "task": "records", "prompt_template": '
        'null, "truncate_prompts": false, "append_eos": false, "objective": null, "train_file": "T", '
        '"eval_file": null, "max_train_examples": null, "max_eval_examples": null, "mode": "lora", '
        '"learning_rate": 0.0001, "eps": 0.01, "num_pairs": 1, "projected_grad_clip": null, '
        '"distribution": "gaussian", "optimizer": "sgd", "momentum": 0.9, "adam_betas": [0.9, 0.999], '
        '"adam_eps": 1e-08, "weight_decay": 0.0, "schedule": "constant", "warmup_steps": 0, '
        '"lora_rank": 8, "lora_alpha": 16, "lora_target_modules": null, "lora_layers_to_transform": '
        'null, "lora_path": null, "output_dir": "O", "resume": false, "seed": 0, "eval_steps": 0, '
        '"quiet": false, "steps": 20000, "batch_size": 16, "cuda_graph": false}'
    ),
    "evolve": (
        '{"model_path": "M", "server": "http://x", "launch_server": false, "api_key": null, '
        '"admin_api_key": null, "concurrency": 256, "timeout": 600, "patience": 300, "adapter_folder": '
        'null, "train_file": "T", "eval_file": null, "max_train_examples": null, "max_eval_examples": '
        'null, "reward": "m:f", "eval_reward": null, "chat": false, "max_new_tokens": 256, '
        '"temperature": 0.0, "top_p": 1.0, "top_k": -1, "stop": [], "population": 30, "eps": 0.001, '
        '"learning_rate": 0.0005, "estimator": "mirrored", "shaping": "z-score", "mean": false, '
        '"merge": false, "distribution": "gaussian", "optimizer": "sgd", "momentum": 0.9, '
        '"adam_betas": [0.9, 0.999], "adam_eps": 1e-08, "weight_decay": 0.0, "schedule": "constant", '
        '"warmup_steps": 0, "lora_rank": 8, "lora_alpha": 16, "lora_target_modules": null, '
        '"lora_layers_to_transform": null, "lora_path": null, "output_dir": "O", "resume": false, '
        '"seed": 0, "eval_steps": 0, "quiet": false, "steps": 100, "batch_size": null, "mode": "lora"}'
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_header(case: str) -> None:
    command, words, expected = CASES[case]
    options = COMMANDS[command].read(*words.split())
    if command == "train":
        header = options.header(dtype="float32", objective="classification")
    else:
        header = replace(options, batch_size=options.batch_size or 7).header()
    assert json.dumps(header) == expected


@pytest.mark.parametrize("command", OPTIONS)
def test_options_json(command: str) -> None:
    assert json.dumps(COMMANDS[command].read().values()) == OPTIONS[command]
