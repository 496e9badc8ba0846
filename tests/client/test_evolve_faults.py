"""What goes wrong while a run asks a server: one line that says so, and nothing is lost."""

import json
from pathlib import Path

import pytest
import tiny_checkpoints
from evolve_runs import Files, entries
from fake_server import FakeServer

from sglang_mezo_plugin.cli import connection
from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.evolve import evolve, main

BUSY = (503, {"error": {"message": "The request queue is full."}})


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries without their waits."""
    slow = connection.Retries
    monkeypatch.setattr(
        connection, "Retries", lambda **o: slow(count=2, first_wait=0.01, longest_wait=0.02, **o)
    )


def seeds(out: Path) -> list[list[int]]:
    return [json.loads(line)[1] for line in (out / "journal.jsonl").read_text().splitlines()[1:]]


def test_a_server_that_is_not_there(files: Files, fake: FakeServer, tmp_path: Path) -> None:
    fake.stop()
    with pytest.raises(UserError, match=r"http://127.0.0.1:\d+ cannot be reached .*: start the server"):
        evolve(files.words(fake.url, tmp_path / "out", "--patience", "0.1"))
    assert not (tmp_path / "out" / "journal.jsonl").exists()
    fake.start()  # for the fixture's end


def test_a_wrong_key(files: Files, fake: FakeServer, tmp_path: Path) -> None:
    fake.api_key = "sesame"
    with pytest.raises(UserError, match=r"401.*pass the key"):
        evolve(files.words(fake.url, tmp_path / "out"))
    assert not (tmp_path / "out" / "journal.jsonl").exists()


def test_a_server_of_another_model(files: Files, fake: FakeServer, tmp_path: Path) -> None:
    other = tiny_checkpoints.save("llama-tied", tmp_path)
    fake.info["model_path"] = str(other)
    with pytest.raises(
        UserError, match=f"serves {other}, whose config.json is not that of {files.model}: pass"
    ):
        evolve(files.words(fake.url, tmp_path / "out"))
    assert fake.bodies("/load_lora_adapter_from_tensors") == []
    fake.info["model_path"] = str(files.model)
    assert evolve(files.words(fake.url, tmp_path / "out", "--steps", "1")).status == "finished"


def test_a_server_without_lora_gets_its_flags(files: Files, fake: FakeServer, tmp_path: Path) -> None:
    fake.info["enable_lora"] = False
    flags = "--enable-lora --max-lora-rank 2 --lora-target-modules q_proj v_proj --max-loras-per-batch 6"
    with pytest.raises(UserError, match=f"without LoRA: start it with {flags}$"):
        evolve(files.words(fake.url, tmp_path / "out"))


@pytest.mark.parametrize(
    "faults",
    [
        {"/generate": [BUSY, "reset", BUSY]},
        {
            "/load_lora_adapter_from_tensors": [None, None, BUSY, "reset"],
            "/unload_lora_adapter": [None, BUSY],
        },
        {"/generate": [None] * 13 + ["restart"]},
    ],
    ids=["busy", "busy loading", "restart"],
)
def test_what_passes_leaves_no_trace(
    files: Files, fake: FakeServer, tmp_path: Path, faults: dict[str, list[object]]
) -> None:
    evolve(files.words(fake.url, tmp_path / "calm"))
    fake.faults = {path: list(of_path) for path, of_path in faults.items()}
    evolve(files.words(fake.url, tmp_path / "troubled"))
    assert not any(fake.faults.values())
    assert (tmp_path / "troubled/journal.jsonl").read_bytes() == (
        tmp_path / "calm/journal.jsonl"
    ).read_bytes()
    assert fake.adapters == {}


def test_a_member_that_times_out_is_dropped_with_its_twin(
    files: Files, fake: FakeServer, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    evolve(files.words(fake.url, tmp_path / "calm"))
    fake.faults = {"/generate": ["hang"]}  # of the first member, at + along the first direction
    evolve(files.words(fake.url, out, "--timeout", "1", "--concurrency", "1"))
    assert seeds(out)[0] == seeds(tmp_path / "calm")[0][1:]
    assert seeds(out)[1:] == seeds(tmp_path / "calm")[1:]
    assert [entry["members"] for entry in entries(out / "metrics.jsonl")] == [4, 6, 6, 6]
    assert fake.adapters == {}


def test_a_server_that_stays_busy_ends_the_run(files: Files, fake: FakeServer, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fake.faults = {"/generate": [None] * 12 + [BUSY] * 1000}
    with pytest.raises(UserError, match=r"jsonl line [12]: .*/generate still says 503.*: lower the"):
        evolve(files.words(fake.url, out))
    assert len(seeds(out)) == 1
    assert fake.adapters == {}
    fake.faults = {}
    evolve([*files.words(fake.url, out), "--resume"])
    assert len(seeds(out)) == 4


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ("fails_on_b", r"jsonl line 2: reward evolve_rewards:fails_on_b raised KeyError .*no such"),
        (
            "nan_on_b",
            r"jsonl line 2: reward evolve_rewards:nan_on_b returned nan, no finite number",
        ),
    ],
)
def test_a_reward_that_fails_ends_the_run(
    files: Files, fake: FakeServer, tmp_path: Path, reward: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        evolve(files.words(fake.url, tmp_path / "out", "--reward", f"evolve_rewards:{reward}"))
    assert seeds(tmp_path / "out") == []
    assert fake.adapters == {}


def test_rewards_beyond_fp32(files: Files, fake: FakeServer, tmp_path: Path) -> None:
    words = files.words(fake.url, tmp_path / "out", "--reward", "evolve_rewards:huge")
    with pytest.raises(UserError, match=r"step 1: rewards from .* are too large for --shaping raw.*: pass"):
        evolve([*words, "--shaping", "raw"])
    assert seeds(tmp_path / "out") == []
    evolve([*words, "--shaping", "centered-rank", "--resume"])
    assert len(seeds(tmp_path / "out")) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--population", "5"], "--population must be an even number of 2 or more, not 5"),
        (
            ["--population", "1", "--estimator", "one-sided"],
            "--population must be a number of 2 or more, not 1",
        ),
        (["--sigma", "0"], "--eps must be above 0 and finite, not 0"),
        (["--learning-rate", "-1"], "--learning-rate must be above 0"),
        (["--max-new-tokens", "0"], "--max-new-tokens must be at least 1"),
        (["--temperature", "nan"], "--temperature must be at least 0 and finite, not nan"),
        (["--top-p", "0"], "--top-p must be above 0 and at most 1"),
        (["--top-k", "0"], "--top-k must be 1 or more, or -1"),
        (["--batch-size", "0"], "--batch-size must be 1 or more, not 0"),
        (["--reward", "evolve_rewards"], "--reward evolve_rewards: write module:function"),
        (["--reward", "evolve_rewards:nothing"], "evolve_rewards has no nothing"),
        (["--eval-reward", "no_module:f", "--eval-file", "x"], "--reward no_module:f: No module named"),
        (["--lora-target-modules", "q_prof"], "--lora-target-modules: the model has no 'q_prof'"),
        (["--train-file", "missing.jsonl"], "missing.jsonl: no such file"),
        (["--tp-size", "2"], "--tp-size: no option of this command"),
        (["--server", "localhost:30000"], "--server must be like http://127.0.0.1:30000"),
        (["--temperature", "1"], "ignores the seeds of sampled completions: start it with"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_options_are_refused(
    files: Files,
    fake: FakeServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(files.words(fake.url, tmp_path / "out", *options))
    assert ended.value.code == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("error: ") and message in last
    assert fake.bodies("/generate") == []


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a"}, 'line 1: no "prompt" among the fields'),
        ({"prompt": ""}, 'line 1: "prompt" is empty'),
        ({"messages": []}, '"messages" must be a list of'),
        ({"messages": [{"role": "robot", "content": "a"}]}, '"messages" must be a list of'),
        ({"messages": [{"role": "user", "content": 3}]}, 'a message\'s "content" must be text'),
    ],
    ids=str,
)
def test_bad_questions_are_refused(
    files: Files, fake: FakeServer, tmp_path: Path, row: dict[str, object], message: str
) -> None:
    path = files.write("bad.jsonl", [row])
    with pytest.raises(UserError) as refused:
        evolve(files.words(fake.url, tmp_path / "out", "--train-file", str(path)))
    assert f"{path} line 1" in str(refused.value) and message in str(refused.value)
    assert fake.seen == []
