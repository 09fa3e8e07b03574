"""Tuning a prompt and a head together: peft's own curve, the same file again, one model for all."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import edgept
from edgept.errors import IncompatibleError, InvalidFileError, UsageError

pytest.importorskip("torch", reason="needs the workstation's extra")

import torch

from edgept.tune import Backbone, Settings, load_backbone, tune, tune_tasks
from edgept.tune.batches import Order, make_batch
from edgept.tune.classify import classify
from edgept.tune.data import read_data
from edgept.tune.encode import Example
from edgept.tune.head import keep_head
from edgept.tune.job import Job
from edgept.tune.labels import label_names, majority
from edgept.tune.learning_rates import HEAD_LEARNING_RATE
from edgept.tune.loop import make_optimizer
from edgept.tune.methods import adapt
from tests.conftest import VOCABULARY, matrix, tiny_tokenizer
from tests.peft_adapters import other_peoples_warnings

ROOT = Path(__file__).resolve().parents[1]
QUICK: dict[str, Any] = {
    "task": "text-classification",
    "steps": 12,
    "batch_size": 4,
    "virtual_tokens": 5,
    "eval_every": 4,
    "eval_split": 0.25,
    "learning_rate": 0.02,
    "head_learning_rate": 0.02,
}
LABELS = ("come", "parcel", "when")
# (model, method): all that is trained; the rest is refused
TRAINED = [
    *[("bert", method) for method in ("prompt-tuning", "p-tuning", "multitask", "head")],
    *[("llama", method) for method in ("prompt-tuning", "p-tuning", "prefix-tuning", "head")],
    ("gpt2", "prefix-tuning"),
    *matrix([("roberta", "prompt-tuning"), ("electra", "head")], [("distilbert", "p-tuning")]),
]
TWO_LAYERS = {"roberta": "tanh", "distilbert": "relu", "electra": "gelu"}

KILLED = """
import os, signal, sys
from edgept.tune import Settings, tune

def report(update):
    if update.step == 7 and update.loss is not None:
        os.kill(os.getpid(), signal.SIGKILL)

tune(*sys.argv[1:4], Settings(**eval(sys.argv[4])), checkpoint_seconds=0, report=report)
"""


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from a family to a saved random backbone, without a head."""
    import transformers as t

    small: dict[str, Any] = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2}
    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "initializer_range": 0.15,
    }
    configs: dict[str, Callable[[], Any]] = {
        "bert": lambda: t.BertConfig(**small, **sizes, pad_token_id=0),
        "roberta": lambda: t.RobertaConfig(**small, **sizes, pad_token_id=0),
        # whose rows are narrower than its layers
        "electra": lambda: t.ElectraConfig(**small, **sizes, embedding_size=32, pad_token_id=0),
        "distilbert": lambda: t.DistilBertConfig(
            **small,
            dim=64,
            hidden_dim=128,
            n_layers=2,
            n_heads=4,
            max_position_embeddings=128,
            initializer_range=0.15,
            pad_token_id=0,
        ),
        "llama": lambda: t.LlamaConfig(**small, **sizes, num_key_value_heads=2),
        "gpt2": lambda: t.GPT2Config(
            **small, n_layer=2, n_embd=64, n_head=4, n_positions=128, initializer_range=0.15
        ),
    }
    folders: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in folders:
            torch.manual_seed(0)
            auto: Any = t.AutoModel
            folders[kind] = tmp_path_factory.mktemp("backbones") / kind
            auto.from_config(configs[kind]()).save_pretrained(folders[kind])
            tokenizer = tiny_tokenizer()
            if kind not in ("llama", "gpt2"):  # [CLS] text [SEP], as encoders have it
                from tokenizers.processors import TemplateProcessing

                backend: Any = tokenizer.backend_tokenizer
                backend.post_processor = TemplateProcessing(
                    single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
                )
            tokenizer.save_pretrained(folders[kind])
        return folders[kind]

    return folder


def write_data(path: Path, labels: tuple[str, ...] = LABELS, rows: int = 36) -> Path:
    """Short texts of different lengths, each with the word that is its class somewhere in it."""
    words = ["where", "is", "my", "and", "it"]
    lines = []
    for i in range(rows):
        text = [words[(i + at) % 5] for at in range(1 + i % 4)]
        text.insert(i % 2, f"{labels[i % len(labels)]} {labels[i % len(labels)]}")
        lines.append({"text": " ".join(text), "label": labels[i % len(labels)]})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "train.jsonl")


def quick(**options: Any) -> Settings:
    chosen = {**QUICK, **options}
    if chosen.get("method") == "head":
        del chosen["learning_rate"]
    return Settings(**chosen)


@pytest.mark.parametrize(("kind", "method"), TRAINED)
def test_each_method_learns(
    kind: str, method: str, tmp_path: Path, data: Path, folder_of: Callable[[str], Path]
) -> None:
    output = tmp_path / "p.safetensors"
    rate = 0.003 if method == "p-tuning" else 0.02
    settings = quick(
        method=method, learning_rate=rate, steps=100, batch_size=8, eval_every=20, patience=0
    )
    rows = write_data(tmp_path / "rows.jsonl", rows=120)
    record = tune(str(folder_of(kind)), rows, output, settings).record
    assert record["labels"] == list(LABELS)
    assert record["without_prompt"] is None
    assert record["best"]["loss"] < record["validations"][0]["loss"] - 0.1
    assert record["best"]["metric"]["accuracy"] > 0.6 > record["majority"]["accuracy"]
    prompt = edgept.read_prompt(output)
    assert (prompt.task, prompt.labels) == ("text-classification", LABELS)
    assert prompt.num_virtual_tokens == (0 if method == "head" else 5)
    wanted = {"head": set(), "prefix-tuning": {"prompt_kv"}}.get(method, {"prompt_embeds"})
    dense = {"head.dense.weight", "head.dense.bias"} if kind in TWO_LAYERS else set()
    assert {*prompt.tensors} == {*wanted, *dense, "head.weight", "head.bias"}
    assert prompt.tensors["head.weight"].shape == (3, 64)
    assert prompt.tensors["head.bias"].shape == (3,)


def by_hand(backbone: Backbone, prompt: edgept.Prompt, ids: list[int]) -> Any:
    """Logits (classes,) of one row alone, from the prompt file's tensors and nothing else."""
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in prompt.tensors.items()}
    model = backbone.model.base_model
    tokens = torch.tensor([ids])
    with torch.no_grad():
        embeds = model.get_input_embeddings()(tokens)  # (1, tokens, hidden)
        if "prompt_embeds" in tensors:
            embeds = torch.cat([tensors["prompt_embeds"][None], embeds], dim=1)
        out = model(inputs_embeds=embeds)
        if "head.dense.weight" in tensors:
            function = TWO_LAYERS[backbone.model.config.model_type]
            first = out[0][0, 0] @ tensors["head.dense.weight"].T + tensors["head.dense.bias"]
            first = getattr(torch.nn.functional, function)(first)
            return first @ tensors["head.weight"].T + tensors["head.bias"]
        # an encoder's pooler takes the first position, a decoder's head the last one
        pooled = out.pooler_output[0] if backbone.source.is_encoder else out[0][0, -1]
        return pooled @ tensors["head.weight"].T + tensors["head.bias"]


@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2", *TWO_LAYERS])
def test_the_file_has_the_trained_models_logits(
    kind: str,
    tmp_path: Path,
    data: Path,
    folder_of: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of every row, though peft ran padded batches of unequal rows."""
    from edgept.tune import loop, tuner

    backbone = load_backbone(str(folder_of(kind)), task="text-classification")
    found: list[Any] = []
    real = loop.train

    def train_and_look(learner: Any, *rest: Any, **options: Any) -> None:
        real(learner, *rest, **options)
        job, adapted = learner.job, learner.module
        batch = make_batch(job.examples, torch.device("cpu"))
        assert 0 < int(batch["attention_mask"].sum()) < batch["attention_mask"].numel()
        with torch.no_grad():
            found.extend(classify(adapted, batch, job.settings))
        found.append(job.examples)

    monkeypatch.setattr(tuner, "train", train_and_look)
    output = tmp_path / "p.safetensors"
    tune(backbone, data, output, quick(eval_split=None))
    prompt, examples = edgept.read_prompt(output), found.pop()
    assert len(found) == 36
    for logits, example in zip(found, examples, strict=True):
        expected = by_hand(backbone, prompt, list(example.ids))
        np.testing.assert_allclose(logits, expected, atol=2e-5)
    assert np.ptp(torch.stack(found).numpy(), axis=0).min() > 0.1  # rows do differ


@pytest.mark.parametrize(
    ("kind", "method"),
    [("bert", "prompt-tuning"), ("bert", "p-tuning"), ("llama", "p-tuning"), ("llama", "prefix")],
)
def test_tuning_is_pefts_tuning(
    kind: str, method: str, tmp_path: Path, data: Path, folder_of: Callable[[str], Path]
) -> None:
    """A loop that knows nothing but peft, PyTorch and transformers; a decoder's rows one by one."""
    import peft
    import transformers

    folder = folder_of(kind)
    common: dict[str, Any] = {"task_type": "SEQ_CLS", "num_virtual_tokens": 5}
    configs: dict[str, Callable[[], Any]] = {
        "prompt-tuning": lambda: peft.PromptTuningConfig(**common, prompt_tuning_init="RANDOM"),
        "p-tuning": lambda: peft.PromptEncoderConfig(**common),
        "prefix": lambda: peft.PrefixTuningConfig(**common),
    }
    name = "prefix-tuning" if method == "prefix" else method
    settings = quick(method=name, init="random", steps=20, eval_split=None)
    found = tune(str(folder), data, tmp_path / "p.safetensors", settings).record["losses"]

    rows = read_data(data).rows
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = "<unk>"
    order = Order(len(rows), settings.seed)
    expected = []
    auto: Any = transformers.AutoModelForSequenceClassification
    with other_peoples_warnings():
        torch.manual_seed(settings.seed)
        model: Any = peft.get_peft_model(
            auto.from_pretrained(folder, num_labels=3), configs[method]()
        )
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=0.02, weight_decay=0.0)
        schedule = transformers.get_cosine_schedule_with_warmup(optimizer, 2, 20)
        model.train()
        for step in range(20):
            chosen = [rows[at] for at in order.rows(step * 4, 4)]
            groups = [chosen] if kind == "bert" else [[row] for row in chosen]
            total = 0.0
            for group in groups:
                batch = tokenizer([row.text for row in group], padding=True, return_tensors="pt")
                labels = torch.tensor([LABELS.index(row.answer or "") for row in group])
                loss = model(
                    input_ids=batch["input_ids"],
                    attention_mask=batch["attention_mask"],
                    labels=labels,
                ).loss / len(groups)
                loss.backward()
                total += float(loss.detach())
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            expected.append(total)
    assert np.ptp(expected) > 0.1  # it does learn
    np.testing.assert_allclose(found, expected, rtol=2e-4)


def test_killed_and_resumed_is_the_uninterrupted_file(
    tmp_path: Path, data: Path, folder_of: Callable[[str], Path]
) -> None:
    """BERT has dropout, so its training is random where the seed does not rule."""
    model, whole = str(folder_of("bert")), tmp_path / "whole.safetensors"
    options = {**QUICK, "name": "same"}
    expected = tune(model, data, whole, Settings(**options))
    output = tmp_path / "p.safetensors"
    process = subprocess.run(
        [sys.executable, "-c", KILLED, model, str(data), str(output), repr(options)],
        cwd=ROOT,
        check=False,
        capture_output=True,
        timeout=300,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()
    assert (tmp_path / "p.tune.checkpoint").exists()
    made = tune(model, data, output, Settings(**options), resume=True)
    assert output.read_bytes() == whole.read_bytes()
    assert made.record["losses"] == expected.record["losses"]
    assert made.record["validations"] == expected.record["validations"]
    other = tune(model, data, tmp_path / "o.safetensors", Settings(**{**options, "seed": 1}))
    assert other.prompts[0].read_bytes() != whole.read_bytes()


@pytest.mark.parametrize("kind", ["bert", "llama", "roberta", "distilbert"])
def test_tasks_of_different_classes_share_one_model(
    kind: str, tmp_path: Path, folder_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgept.export.fingerprint import fingerprint
    from edgept.tune import tasks

    write_data(tmp_path / "two.jsonl", ("come", "when"))
    write_data(tmp_path / "three.jsonl")
    (tmp_path / "tasks.yaml").write_text(
        f"defaults: {{{', '.join(f'{name}: {value}' for name, value in QUICK.items())}}}\n"
        "tasks:\n"
        "  two: {train: two.jsonl}\n"
        "  three: {train: three.jsonl, method: p-tuning}\n"
        "  wrong: {train: two.jsonl, task: text-generation}\n"
    )
    loaded: list[Backbone] = []
    before: list[Any] = []

    def load_once(*given: Any, **options: Any) -> Backbone:
        loaded.append(load_backbone(*given, **options))
        before.append(list(loaded[0].model.named_parameters()))
        return loaded[0]

    monkeypatch.setattr(tasks, "load_backbone", load_once)
    made = tune_tasks(str(folder_of(kind)), tmp_path / "tasks.yaml", tmp_path / "out")
    (backbone,) = loaded
    assert "loaded for text-classification" in str(made.pop("wrong"))
    for name, classes in (("two", 2), ("three", 3)):
        prompt = edgept.read_prompt(tmp_path / "out" / f"{name}.safetensors")
        assert len(prompt.labels) == len(prompt.tensors["head.weight"]) == classes
        assert prompt.fingerprint == backbone.fingerprint
    # the very same tensors, in the same places, none of them trained or changed
    after = list(backbone.model.named_parameters())
    assert [(name, id(weight)) for name, weight in after] == [
        (name, id(weight)) for name, weight in before[0]
    ]
    assert fingerprint(backbone.model) == backbone.fingerprint
    assert not any(weight.requires_grad for _, weight in after)
    # and a task alone makes the same file as behind another one
    alone = tmp_path / "alone.safetensors"
    settings = quick(method="p-tuning", name="three")
    tune(str(folder_of(kind)), tmp_path / "three.jsonl", alone, settings)
    assert alone.read_bytes() == (tmp_path / "out" / "three.safetensors").read_bytes()


@pytest.mark.parametrize("method", ["prefix-tuning", "head", "prompt-tuning"])
def test_pads_at_a_texts_end_are_pooled_as_peft_pools_each_row_alone(
    method: str, folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """The end of text is the pad token, too, as most decoders have it."""
    folder = Path(shutil.copytree(folder_of("gpt2"), tmp_path / "gpt2"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "pad_token_id": 2}))
    backbone = load_backbone(str(folder), task="text-classification")
    settings = quick(method=method)
    texts = [(5, 6, 7, 2), (5, 6, 7), (2, 9, 2, 8, 2, 2), (2, 2), (4,)]
    examples = [Example(ids, len(ids), "", 0) for ids in texts]
    with other_peoples_warnings(), keep_head(backbone), torch.no_grad():
        adapted = adapt(backbone, settings, examples, 1, num_labels=3).eval()
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.5)
        found = classify(adapted, make_batch(examples, torch.device("cpu")), settings)
        for ids, logits in zip(texts, found, strict=True):
            alone = torch.tensor([ids])
            given = {"input_ids": alone, "attention_mask": torch.ones_like(alone)}
            expected = adapted(**given).logits[0]
            np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    assert np.allclose(found[0], found[1], atol=1e-4) == (method != "prompt-tuning")


def test_multitask_prompts_share_a_head(tmp_path: Path, folder_of: Callable[[str], Path]) -> None:
    rows = [
        {"text": "where is it", "label": ["come", "when"][i % 2], "task": ["es", "de"][i % 2]}
        for i in range(16)
    ]
    data = tmp_path / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = quick(method="multitask", steps=40, learning_rate=0.3, patience=0)
    made = tune(str(folder_of("bert")), data, tmp_path / "p.safetensors", settings)
    assert [path.name for path in made.prompts] == ["p-de.safetensors", "p-es.safetensors"]
    german, spanish = map(edgept.read_prompt, made.prompts)
    assert np.array_equal(german.tensors["head.weight"], spanish.tensors["head.weight"])
    assert not np.array_equal(german.tensors["prompt_embeds"], spanish.tensors["prompt_embeds"])
    # the same text, so that the prompt alone tells the classes apart
    assert made.record["best"]["metric"]["accuracy"] == 1


def test_the_models_own_head_comes_back_after_an_error(folder_of: Callable[[str], Path]) -> None:
    backbone = load_backbone(str(folder_of("llama")), task="text-classification")
    own, config = backbone.model.score, backbone.model.config.to_dict()

    def interrupted() -> None:
        with other_peoples_warnings(), keep_head(backbone):
            adapt(backbone, quick(), [], 1, num_labels=7)
            assert backbone.model.config.num_labels == 7
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert backbone.model.score is own
    assert backbone.model.config.to_dict() == config


def test_an_encoder_classifies_unless_told_otherwise(
    tmp_path: Path, data: Path, folder_of: Callable[[str], Path]
) -> None:
    assert load_backbone(str(folder_of("bert"))).task == "text-classification"
    with pytest.raises(UsageError, match="encoder"):
        load_backbone(str(folder_of("bert")), task="text-generation")
    made = tune(str(folder_of("bert")), data, tmp_path / "p.safetensors", quick(task=None, steps=2))
    assert made.record["settings"]["task"] == "text-classification"


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("bert", {"method": "prefix-tuning"}, "encoder"),
        ("bert", {"method": "cpt"}, "cpt learns from the answers"),
        ("llama", {"method": "cpt"}, "cpt learns from the answers"),
        ("llama", {"task": "text-generation"}, "loaded for text-classification"),
    ],
)
def test_what_is_refused(
    kind: str,
    options: dict[str, Any],
    words: str,
    tmp_path: Path,
    data: Path,
    folder_of: Callable[[str], Path],
) -> None:
    backbone = load_backbone(str(folder_of(kind)), task="text-classification")
    with pytest.raises(UsageError, match=words):
        tune(backbone, data, tmp_path / "p.safetensors", quick(**options))


def test_a_generating_model_has_no_head(
    tmp_path: Path, data: Path, model_folder: Callable[[str], Path]
) -> None:
    backbone = load_backbone(str(model_folder("llama")))
    for settings in (Settings(method="head"), Settings(head_learning_rate=0.1)):
        with pytest.raises(UsageError, match="text-generation has no"):
            tune(backbone, data, tmp_path / "p.safetensors", settings)
    with pytest.raises(UsageError, match="head_learning_rate"):
        Settings(method="head", learning_rate=0.1)


def test_labels_that_nothing_trains_are_all_named(
    tmp_path: Path, data: Path, folder_of: Callable[[str], Path]
) -> None:
    held_out = tmp_path / "eval.csv"
    held_out.write_text("text,label\nit,come\nit,where\nit,when\nit,my\n")
    backbone = load_backbone(str(folder_of("bert")))
    output = tmp_path / "p.safetensors"
    with pytest.raises(InvalidFileError, match="2 held-out rows") as caught:
        tune(backbone, data, output, quick(eval_split=None), evaluation=held_out)
    assert "line 3 'where'" in str(caught.value)
    assert "line 5 'my'" in str(caught.value)
    one = write_data(tmp_path / "one.jsonl", ("come",))
    with pytest.raises(InvalidFileError, match="one label only, 'come'"):
        tune(backbone, one, output, quick())
    (tmp_path / "io.jsonl").write_text('{"input": "it", "output": "come"}\n' * 4)
    with pytest.raises(UsageError, match="columns text and label"):
        tune(backbone, tmp_path / "io.jsonl", output, quick())
    assert not output.exists()


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (("card\tlost", "card found"), "line 1: a prompt file cannot hold the label"),
        (("x" * 40_000, "y"), "cannot hold the label"),
        (tuple(f"class number {i} " + "x" * 30 for i in range(1000)), "names of its 1000 labels"),
    ],
)
def test_labels_that_no_file_holds_are_refused_before_the_training(
    tmp_path: Path, labels: tuple[str, ...], says: str
) -> None:
    data = read_data(write_data(tmp_path / "rows.jsonl", labels, rows=len(labels)))
    with pytest.raises(InvalidFileError, match=says):
        label_names(data, None)


def test_what_no_file_holds_is_refused_before_anything_slow(
    tmp_path: Path, data: Path, folder_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels before the model is loaded; sizes, with the shapes that come out, before the training."""
    from edgept import prompt_file
    from edgept.tune import tuner

    output = tmp_path / "p.safetensors"
    tabs = write_data(tmp_path / "tabs.jsonl", ("card\tlost", "card found"))
    with pytest.raises(InvalidFileError, match=r"line 1: .*card\\tlost"):
        tune("no/such-model", tabs, output, quick())
    backbone = load_backbone(str(folder_of("llama")), task="text-classification")
    monkeypatch.setattr(tuner, "train", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(InvalidFileError, match="5 virtual tokens and 3 labels: metadata name"):
        tune(backbone, data, output, quick(name="n" * 300))
    real = prompt_file.parse_prompt
    monkeypatch.setattr(prompt_file, "parse_prompt", lambda raw: real(raw, max_bytes=2000))
    with pytest.raises(InvalidFileError, match="--virtual-tokens"):
        tune(backbone, data, output, quick(method="prefix-tuning"))


def test_numbers_are_labels_too(tmp_path: Path, folder_of: Callable[[str], Path]) -> None:
    data = tmp_path / "train.jsonl"
    rows = [{"text": ["come", "when", "it"][i % 3], "label": [10, 2, 2][i % 3]} for i in range(12)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tune(str(folder_of("bert")), data, tmp_path / "p.safetensors", quick(steps=2))
    assert edgept.read_prompt(tmp_path / "p.safetensors").labels == ("10", "2")
    assert majority(read_data(data), read_data(data)) == {"label": "2", "accuracy": 8 / 12}


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_the_heads_rate_is_by_what_it_reads(
    kind: str, tmp_path: Path, data: Path, folder_of: Callable[[str], Path]
) -> None:
    backbone = load_backbone(str(folder_of(kind)), task="text-classification")
    rows = [list(backbone.tokenizer(row.text).input_ids) for row in read_data(data).rows[:16]]
    identity = {"head.weight": np.eye(64, dtype=np.float32), "head.bias": np.zeros(64, np.float32)}
    read = [by_hand(backbone, edgept.Prompt(identity), ids) for ids in rows]
    rms = float(torch.stack(read).square().mean().sqrt())
    settings = quick(head_learning_rate=None, eval_split=None, steps=1)
    record = tune(backbone, data, tmp_path / "p.safetensors", settings).record
    assert record["settings"]["head_learning_rate"] == pytest.approx(HEAD_LEARNING_RATE / rms)
    optimizer = make_groups(backbone)
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 2 - (kind == "llama")]
    assert [group["initial_lr"] for group in optimizer.param_groups] == [0.02, 0.5]


def make_groups(backbone: Backbone) -> Any:
    settings = quick()
    with other_peoples_warnings(), keep_head(backbone):
        adapted = adapt(backbone, settings, [], 1, num_labels=3)
        job = Job(backbone, settings, [], [], "label", 9, 0.02, LABELS, head_rate=0.5)
        return make_optimizer(adapted, job)[0]


@pytest.mark.parametrize("method", ["p-tuning", "head"])
def test_what_the_command_shows(
    method: str, tmp_path: Path, data: Path, folder_of: Callable[[str], Path]
) -> None:
    from edgept.cli.tune import tune as command

    output = tmp_path / "p.safetensors"
    given = [folder_of("bert"), data, "-o", output, "--method", method]
    options = ["--steps", 2, "--virtual-tokens", 5, "--eval-split", 0.25, "--batch-size", 4]
    shown = CliRunner().invoke(command, [str(part) for part in [*given, *options]])
    assert shown.exit_code == 0, shown.output
    first, second, _ = shown.stdout.splitlines()
    holds = "a head of 3 classes"
    holds = holds if method == "head" else f"5 virtual tokens and {holds}"
    assert first.startswith(f"{output}: {holds}, ")
    assert second.startswith("validation: accuracy ")
    assert " of always saying '" in second


def test_bf16_trains_a_float32_head(
    tmp_path: Path, data: Path, folder_of: Callable[[str], Path]
) -> None:
    for kind in ("bert", "llama"):
        backbone = load_backbone(str(folder_of(kind)), task="text-classification", precision="bf16")
        record = tune(backbone, data, tmp_path / f"{kind}.safetensors", quick(steps=40)).record
        assert record["best"]["loss"] < record["validations"][0]["loss"]


@pytest.mark.parametrize(("kind", "method"), TRAINED)
def test_the_bundle_has_the_same_logits(
    kind: str,
    method: str,
    tmp_path: Path,
    data: Path,
    folder_of: Callable[[str], Path],
    bundle_of_backbone: Callable[[str], Path],
) -> None:
    output, bundle = tmp_path / "p.safetensors", bundle_of_backbone(kind)
    backbone = load_backbone(str(folder_of(kind)), task="text-classification")
    record = tune(backbone, data, output, quick(method=method), bundle=bundle).record
    assert abs(record["bundle"]["gap"]["loss"]) < 1e-4
    assert record["bundle"]["gap"]["accuracy"] == 0
    assert record["bundle"]["loss_without_prompt"] is None
    model = edgept.load(bundle)
    prompt = model.load_prompt(output)
    text = "where is my parcel"
    ids = list(backbone.tokenizer(text).input_ids)
    answer = model.classify(text, prompt=prompt)
    np.testing.assert_array_equal(answer.logits, model.classify(ids, prompt=prompt).logits)
    assert answer.labels == LABELS
    if method != "prefix-tuning":
        expected = by_hand(backbone, edgept.read_prompt(output), ids)
        np.testing.assert_allclose(answer.logits, expected, atol=1e-4)


@pytest.fixture(scope="module")
def bundle_of_backbone(
    tmp_path_factory: pytest.TempPathFactory, folder_of: Callable[[str], Path]
) -> Callable[[str], Path]:
    """A function from a family to its exported bundle, made at the first call."""
    from edgept.export import export_model

    bundles: dict[str, Path] = {}

    def bundle(kind: str) -> Path:
        if kind not in bundles:
            bundles[kind] = tmp_path_factory.mktemp("bundles") / kind
            export_model(
                str(folder_of(kind)), bundles[kind], precision="fp32", task="text-classification"
            )
        return bundles[kind]

    return bundle


def test_a_bundle_of_another_task_is_refused(
    tmp_path: Path, data: Path, model_folder: Callable[[str], Path], bundle_of: Callable[..., Path]
) -> None:
    backbone = load_backbone(str(model_folder("llama")), task="text-classification")
    with pytest.raises(IncompatibleError, match="exported for text-generation"):
        tune(backbone, data, tmp_path / "p.safetensors", quick(), bundle=bundle_of("llama"))
