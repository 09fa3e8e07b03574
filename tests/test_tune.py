"""Tuning: peft's own loss curve, the same file from the same seed, and from a run that was killed."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgept
from edgept.errors import EdgeptError, IncompatibleError, InvalidFileError, UsageError

pytest.importorskip("torch", reason="needs the workstation's extra")

import torch

from edgept.tune import Settings, Tuned, Update, load_backbone, tune
from edgept.tune.batches import Order, make_batch
from edgept.tune.data import read_data
from edgept.tune.encode import Example, encode
from edgept.tune.learning_rates import LEARNING_RATES
from tests.conftest import shared, tiny_model, tiny_tokenizer
from tests.peft_adapters import other_peoples_warnings

ROOT = Path(__file__).resolve().parents[1]
QUICK: dict[str, Any] = {
    "steps": 12,
    "batch_size": 4,
    "virtual_tokens": 5,
    "eval_every": 4,
    "eval_split": 0.25,
}
RESUMED: dict[str, Any] = {**QUICK, "learning_rate": 0.05}

# Runs a tuning in a process of its own, which kills itself at a step: before its checkpoint.
KILLED = """
import os, signal, sys, warnings
from edgept.tune import Settings, tune

def report(update):
    if update.step == int(sys.argv[4]) and update.loss is not None:
        os.kill(os.getpid(), signal.SIGKILL)

tune(*sys.argv[1:4], Settings(**eval(sys.argv[5])), checkpoint_seconds=0, report=report)
"""


def write_data(path: Path) -> Path:
    """Twenty-four short questions with one of three answers."""
    words = ["where", "is", "my", "parcel", "and", "when", "will", "it", "come"]
    answers = ["will come", "my parcel", "when"]
    rows = [
        {"input": f"{words[i % 9]} {words[(i * 2 + 1) % 9]}", "output": answers[i % 3]}
        for i in range(24)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "train.jsonl")


def quick(**options: Any) -> Settings:
    return Settings(**{**QUICK, **options})


@pytest.mark.parametrize("method", LEARNING_RATES)
def test_each_method_learns_and_runs_on_the_bundle(
    method: str,
    tmp_path: Path,
    data: Path,
    model_folder: Callable[[str], Path],
    bundle_of: Callable[..., Path],
) -> None:
    output = tmp_path / "p.safetensors"
    settings = quick(method=method, learning_rate=0.05, steps=24, patience=0)
    made = tune(str(model_folder("llama")), data, output, settings, bundle=bundle_of("llama"))
    assert made.prompts == (output,)
    prompt = edgept.read_prompt(output)
    assert prompt.num_virtual_tokens == 5
    assert prompt.name == "p"
    record = made.record
    assert record == json.loads((tmp_path / "p.tune.json").read_text())
    assert record["ended"] == "finished"
    assert len(record["losses"]) == 24
    validations = record["validations"]
    assert [found["step"] for found in validations] == [0, 4, 8, 12, 16, 20, 24]
    assert record["best"]["loss"] < validations[0]["loss"]
    # the bundle computes what PyTorch computes, so the kept prompt is the best one
    assert abs(record["bundle"]["gap"]["loss"]) < 1e-4
    assert record["bundle"]["gap"]["exact_match"] == 0
    assert record["bundle"]["loss_without_prompt"] == pytest.approx(
        record["without_prompt"]["loss"], abs=1e-4
    )
    assert not (tmp_path / "p.tune.checkpoint").exists()


def plain_peft(
    folder: Path, config: Any, examples: list[Example], settings: Settings
) -> list[float]:
    """The losses of a training loop that knows nothing but peft, PyTorch and transformers."""
    import peft
    import transformers

    torch.manual_seed(settings.seed)
    with other_peoples_warnings():
        base: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        model: Any = peft.get_peft_model(base, config)
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=settings.learning_rate or 0, weight_decay=0.0
        )
        steps = settings.steps or 0
        warmup = round(settings.warmup * steps)
        schedule = transformers.get_cosine_schedule_with_warmup(optimizer, warmup, steps)
        order = Order(len(examples), settings.seed)
        model.train()
        losses = []
        for step in range(steps):
            rows = order.rows(step * settings.batch_size, settings.batch_size)
            batch = make_batch([examples[row] for row in rows], torch.device("cpu"))
            del batch["task_ids"]
            loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(float(loss))
    return losses


@pytest.mark.parametrize("method", ["prompt-tuning", "p-tuning", "prefix-tuning"])
def test_tuning_is_pefts_tuning(
    method: str, tmp_path: Path, data: Path, model_folder: Callable[[str], Path]
) -> None:
    import peft

    folder = model_folder("llama")
    configs: dict[str, Callable[[], Any]] = {
        "prompt-tuning": lambda: peft.PromptTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=5,
            prompt_tuning_init="TEXT",
            prompt_tuning_init_text="where is my",
            tokenizer_name_or_path=str(folder),
        ),
        "p-tuning": lambda: peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
        "prefix-tuning": lambda: peft.PrefixTuningConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=5
        ),
    }
    init = "text:where is my" if method == "prompt-tuning" else "random"
    settings = Settings(
        method=method, init=init, steps=20, batch_size=4, virtual_tokens=5, learning_rate=0.02
    )
    found = tune(str(folder), data, tmp_path / "p.safetensors", settings).record["losses"]
    examples = encode(read_data(data), tiny_tokenizer(), eos_token_ids=[2], max_length=200)
    expected = plain_peft(folder, configs[method](), examples, settings)
    assert np.ptp(expected) > 0.1  # it does learn
    np.testing.assert_allclose(found, expected, rtol=2e-4)


def test_accumulation_is_a_larger_batch(
    tmp_path: Path, data: Path, model_folder: Callable[[str], Path]
) -> None:
    losses = []
    for size, accumulate in ((8, 1), (2, 4)):
        settings = Settings(
            steps=8, batch_size=size, accumulate=accumulate, virtual_tokens=5, learning_rate=0.02
        )
        output = tmp_path / f"{size}.safetensors"
        losses.append(tune(str(model_folder("llama")), data, output, settings).record["losses"])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def test_checkpointed_activations_change_nothing(
    tmp_path: Path, data: Path, model_folder: Callable[[str], Path]
) -> None:
    losses = []
    for checkpoint in (False, True):
        output = tmp_path / f"{checkpoint}.safetensors"
        settings = quick(checkpoint_activations=checkpoint, learning_rate=0.05)
        losses.append(tune(str(model_folder("gpt2")), data, output, settings).record["losses"])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def test_same_seed_same_file(
    tmp_path: Path, data: Path, model_folder: Callable[[str], Path]
) -> None:
    """GPT-2 has dropout, so its training is random where the seed does not rule."""
    backbone = load_backbone(str(model_folder("gpt2")))
    files: list[bytes] = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(len(files))  # what the program did before does not count
        (tmp_path / name).mkdir()
        output = tmp_path / name / "p.safetensors"
        tune(backbone, data, output, quick(seed=seed))
        files.append(output.read_bytes())
    assert files[0] == files[1]
    assert files[0] != files[2]


def test_the_programs_own_randomness_is_left_alone(
    tmp_path: Path, data: Path, model_folder: Callable[[str], Path]
) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    tune(str(model_folder("gpt2")), data, tmp_path / "p.safetensors", quick(steps=2))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture(scope="module")
def uninterrupted(
    tmp_path_factory: pytest.TempPathFactory, model_folder: Callable[[str], Path]
) -> tuple[Path, bytes, Tuned]:
    """Data, and what a run over them makes that nobody kills."""
    folder = tmp_path_factory.mktemp("whole")
    data = write_data(folder / "train.jsonl")
    made = tune(str(model_folder("gpt2")), data, folder / "p.safetensors", Settings(**RESUMED))
    return data, made.prompts[0].read_bytes(), made


@pytest.mark.parametrize("step", [1, 7])
def test_killed_and_resumed_is_the_uninterrupted_file(
    step: int,
    tmp_path: Path,
    model_folder: Callable[[str], Path],
    uninterrupted: tuple[Path, bytes, Tuned],
) -> None:
    """Step 1 is before the first checkpoint; step 7 lies between two validations."""
    model = str(model_folder("gpt2"))
    data, whole, expected = uninterrupted
    options = RESUMED
    output = tmp_path / "p.safetensors"
    process = subprocess.run(
        [sys.executable, "-c", KILLED, model, str(data), str(output), str(step), repr(options)],
        cwd=ROOT,
        check=False,
        capture_output=True,
        timeout=300,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()
    assert not output.exists()
    assert (tmp_path / "p.tune.checkpoint").exists() == (step > 1)
    if step > 1:
        with pytest.raises(UsageError, match="--resume"):
            tune(model, data, output, Settings(**options))
        with pytest.raises(UsageError, match=r"belongs to another run.*settings"):
            tune(model, data, output, Settings(**{**options, "steps": 13}), resume=True)
    steps: list[int] = []
    made = tune(
        model,
        data,
        output,
        Settings(**options),
        resume=True,
        report=lambda update: steps.append(update.step) if update.loss is not None else None,
    )
    assert steps[0] == (1 if step == 1 else step)  # step 7's own checkpoint was never written
    assert output.read_bytes() == whole
    assert made.record["losses"] == expected.record["losses"]
    assert made.record["validations"] == expected.record["validations"]
    # and once more: it is finished, so nothing is trained
    again = tune(model, data, output, Settings(**options), resume=True)
    assert again.record == made.record


def test_killed_between_the_prompt_and_its_record(
    tmp_path: Path,
    data: Path,
    model_folder: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "p.safetensors"

    def killed(*arguments: Any, **options: Any) -> None:
        edgept.write_prompt(*arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("edgept.tune.tuner.write_prompt", killed)
        with pytest.raises(KeyboardInterrupt):
            tune(str(model_folder("gpt2")), data, output, quick())
    first = output.read_bytes()
    tune(str(model_folder("gpt2")), data, output, quick(), resume=True)
    assert output.read_bytes() == first
    assert (tmp_path / "p.tune.json").exists()
    assert not (tmp_path / "p.tune.checkpoint").exists()


def test_early_stopping_keeps_the_best(
    tmp_path: Path, data: Path, model_folder: Callable[[str], Path]
) -> None:
    held_out = tmp_path / "eval.jsonl"  # answers that nothing trains, so learning ends early
    held_out.write_text('{"input": "where is", "output": "and and and"}\n' * 3)
    news: list[Update] = []
    made = tune(
        str(model_folder("llama")),
        data,
        tmp_path / "p.safetensors",
        Settings(steps=80, batch_size=4, eval_every=2, patience=2, learning_rate=0.3),
        evaluation=held_out,
        report=news.append,
    ).record
    assert made["ended"] == "stopped early"
    losses = {found["step"]: found["loss"] for found in made["validations"]}
    assert made["best"]["loss"] == min(losses.values()) == losses[made["best_step"]]
    assert made["step"] == made["best_step"] + 4 < 80
    assert news[-1].steps == 80


def test_a_training_that_diverges_leaves_nothing(
    tmp_path: Path, data: Path, model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgept.tune import loop

    real = loop._step
    monkeypatch.setattr(
        loop,
        "_step",
        lambda *given: (float("nan"), *real(*given)[1:]) if given[-1] == 2 else real(*given),
    )
    with pytest.raises(EdgeptError, match=r"diverged.*step 3.*--learning-rate"):
        tune(str(model_folder("llama")), data, tmp_path / "p.safetensors", quick())
    assert {path.name for path in tmp_path.iterdir()} == {"train.jsonl"}


def test_multitask_gives_a_file_for_each_task(
    tmp_path: Path, model_folder: Callable[[str], Path], bundle_of: Callable[..., Path]
) -> None:
    data = tmp_path / "train.jsonl"
    rows = [
        {"input": "where is it", "output": ["when", "parcel"][i % 2], "task": ["es", "de"][i % 2]}
        for i in range(16)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = tune(
        str(model_folder("llama")),
        data,
        tmp_path / "p.safetensors",
        quick(method="multitask", steps=80, learning_rate=0.3, patience=0),
        bundle=bundle_of("llama"),
    )
    assert [path.name for path in made.prompts] == ["p-de.safetensors", "p-es.safetensors"]
    model = edgept.load(bundle_of("llama"))
    answers = {
        path.name: model.generate(
            "where is it", prompt=model.load_prompt(path), max_new_tokens=8
        ).text
        for path in made.prompts
    }
    assert answers == {"p-de.safetensors": "parcel", "p-es.safetensors": "when"}
    assert made.record["bundle"]["metric"] == {"exact_match": 1.0}


def test_what_is_refused_before_training(
    tmp_path: Path,
    data: Path,
    model_folder: Callable[[str], Path],
    bundle_of: Callable[..., Path],
) -> None:
    model = load_backbone(str(model_folder("llama")))
    output = tmp_path / "p.safetensors"
    cases: list[tuple[dict[str, Any], str]] = [
        ({"output": tmp_path / "p.pt"}, "safetensors"),
        ({"output": tmp_path / "no" / "p.safetensors"}, "no folder"),
        ({"settings": Settings(), "bundle": bundle_of("llama")}, "held-out rows"),
        ({"evaluation": data}, "give one"),
        ({"settings": quick(max_length=4096)}, "at most 251"),
        ({"settings": quick(eval_split=0.001)}, "none for validation"),
        ({"data": tmp_path / "absent.jsonl"}, "cannot read"),
        ({"settings": quick(virtual_tokens=256)}, "virtual tokens"),
    ]
    for arguments, words in cases:
        given: dict[str, Any] = {
            "model": model,
            "data": data,
            "output": output,
            "settings": quick(),
            **arguments,
        }
        with pytest.raises(UsageError, match=words):
            tune(**given)
    with pytest.raises(IncompatibleError, match="another model"):
        tune(model, data, output, quick(), bundle=bundle_of("gpt2"))
    (tmp_path / "bad.jsonl").write_text("{}\n")
    with pytest.raises(InvalidFileError, match="malformed"):
        tune("no/such-model", tmp_path / "bad.jsonl", output)  # rows first, the model costs more
    output.write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        tune(model, data, output, quick())
    with pytest.raises(UsageError, match="not this run's"):
        tune(model, data, output, quick(), resume=True)
    assert output.read_text() == "mine"


def test_the_frozen_model_stays_as_it_was(
    tmp_path: Path, data: Path, model_folder: Callable[[str], Path]
) -> None:
    from edgept.export.fingerprint import fingerprint

    backbone = load_backbone(str(model_folder("gpt2")))
    tune(backbone, data, tmp_path / "p.safetensors", quick())
    assert fingerprint(backbone.model) == backbone.fingerprint == fingerprint(tiny_model("gpt2"))
    assert not backbone.model.training
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())


def test_bf16_is_bound_to_the_same_model(
    tmp_path: Path, data: Path, model_folder: Callable[[str], Path]
) -> None:
    backbone = load_backbone(str(model_folder("llama")), precision="bf16")
    assert {parameter.dtype for parameter in backbone.model.parameters()} == {torch.bfloat16}
    tune(backbone, data, tmp_path / "p.safetensors", quick())
    plain = load_backbone(str(model_folder("llama")), precision="fp32")
    assert edgept.read_prompt(tmp_path / "p.safetensors").fingerprint == plain.fingerprint
    with pytest.raises(UsageError, match="share"):
        tune(backbone, data, tmp_path / "q.safetensors", quick(precision="fp32"))


def test_the_curve_is_a_picture(
    tmp_path: Path, data: Path, model_folder: Callable[[str], Path]
) -> None:
    tune(str(model_folder("llama")), data, tmp_path / "p.safetensors", quick())
    assert (tmp_path / "p.tune.png").read_bytes().startswith(b"\x89PNG")


def test_a_style_is_learnt_and_the_bundle_has_it(
    tmp_path: Path, bundle_of: Callable[..., Path]
) -> None:
    """TinyStories without a capital letter, which the model finds odd until the prompt says so."""
    folder = shared("stories260K")
    text = (shared("tinystories-valid-1000") / "tinystories-valid.txt.1000").read_text()
    stories = [" ".join(story.split()).lower()[:200] for story in text.split("<|endoftext|>")]
    data = tmp_path / "lower.jsonl"
    data.write_text(
        "".join(json.dumps({"text": story}) + "\n" for story in stories[:120] if len(story) > 100)
    )
    made = tune(
        str(folder),
        data,
        tmp_path / "lower.safetensors",
        Settings(steps=40, batch_size=4, eval_split=0.2, eval_every=20),
        bundle=bundle_of("stories260K"),
    ).record
    without, under = made["without_prompt"]["loss"], made["best"]["loss"]
    assert under < without - 0.15
    device = made["bundle"]
    assert device["loss"] < device["loss_without_prompt"] - 0.15
    assert abs(device["gap"]["loss"]) < 1e-3
    assert (tmp_path / "lower.safetensors").stat().st_size < 5000
