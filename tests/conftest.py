"""Tiny models, built and exported once a test run, and where the real data is."""

import fcntl
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
VOCABULARY = 512
ENCODERS = (
    "bert",
    "roberta",
    "distilbert",
    "deberta-v2",
    "electra",
    "mpnet",
    "albert",
    "modernbert",
    "xlm-roberta",
)


def _keep_to_one_core() -> None:
    """Give each worker of a parallel run a core, so that their models' threads do not wait for each other.

    PyTorch and onnxruntime would start a thread for every core in every worker, and spin.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    cores = sorted(os.sched_getaffinity(0))
    if worker.startswith("gw") and len(cores) > 1:
        os.sched_setaffinity(0, {cores[int(worker[2:]) % len(cores)]})


_keep_to_one_core()  # before PyTorch is imported, which counts them then


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--engine c`."""
    parser.addoption(
        "--engine",
        choices=["python", "c"],
        default="python",
        help="what edgept.load gives to the tests of the runtime: c is the C library, and tests of "
        "what it lacks are skipped",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is of the Python engine alone."""
    if config.getoption("--engine") == "c":
        from tests.c_switch import skip_what_is_apart

        skip_what_is_apart(items)


@pytest.fixture(scope="session", autouse=True)
def engine(request: pytest.FixtureRequest) -> Iterator[None]:
    """The engine of --engine."""
    if request.config.getoption("--engine") == "python":
        yield
        return
    from tests.c_switch import running_in_c

    with running_in_c():
        yield


def shared(name: str) -> Path:
    """A folder of real data; the test is skipped where it is not at hand."""
    path = SHARED / name
    if not path.is_dir():
        pytest.skip(f"needs the real data {name}, which is not part of the repository")
    return path


T = TypeVar("T")


def matrix(always: Sequence[T], on_request: Sequence[T]) -> list[T]:
    """Cases of a test: those of every run, and with EDGEPT_FULL_MATRIX=1 the others, which they resemble."""
    return [*always, *(on_request if os.environ.get("EDGEPT_FULL_MATRIX") else ())]


# Families that differ from another one by names, and by sizes that other tests try.
_LIKE_OTHERS = ("distilbert", "electra", "xlm-roberta")


def encoder_cases() -> list[tuple[str, str]]:
    """Families and tasks that are tried: most families on one task each, in turns; all of all on request."""
    tasks = (
        "text-classification",
        "token-classification",
        "question-answering",
        "feature-extraction",
    )
    if os.environ.get("EDGEPT_FULL_MATRIX"):
        return [(kind, task) for kind in ENCODERS for task in tasks]
    cases = zip(ENCODERS, itertools.cycle(tasks))
    return [(kind, task) for kind, task in cases if kind not in _LIKE_OTHERS]


def _auto_class(kind: str) -> Any:
    """What a kind is saved as: a bare encoder where that has all that its tasks freeze."""
    import transformers as t

    if kind == "deberta-v2":  # the pooler comes with the classifier
        return t.AutoModelForSequenceClassification
    if kind == "modernbert":  # part of its head comes with masked language modelling
        return t.AutoModelForMaskedLM
    return t.AutoModel if kind in ENCODERS else t.AutoModelForCausalLM


def tiny_model(kind: str) -> Any:
    """A random model of a few thousand parameters, spread so that logits differ clearly."""
    import torch
    import transformers as t

    # special tokens of the families' defaults lie outside this vocabulary
    common: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    encoder: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    # as DeBERTa-v3's, with fewer buckets than positions
    deberta: dict[str, Any] = {
        "relative_attention": True,
        "position_buckets": 16,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "pooler_hidden_size": 64,
    }
    padded = {**common, "bos_token_id": 0, "pad_token_id": 1}
    configs: dict[str, Callable[[], Any]] = {
        "llama": lambda: t.LlamaConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            **common,
        ),
        "qwen2": lambda: t.Qwen2Config(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            **common,
        ),
        # windows shorter than the texts they are tried on, embeddings that are scaled
        "gemma2": lambda: t.Gemma2Config(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            query_pre_attn_scalar=16,
            max_position_embeddings=256,
            sliding_window=16,
            **common,
        ),
        "gemma3": lambda: t.Gemma3TextConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=256,
            sliding_window=16,
            **common,
        ),
        "gpt2": lambda: t.GPT2Config(n_layer=2, n_embd=64, n_head=4, n_positions=256, **common),
        "gpt_neo": lambda: t.GPTNeoConfig(
            num_layers=2,
            hidden_size=64,
            num_heads=4,
            attention_types=[[["global", "local"], 1]],
            window_size=8,
            max_position_embeddings=256,
            **common,
        ),
        "gpt_neox": lambda: t.GPTNeoXConfig(
            num_hidden_layers=2,
            hidden_size=64,
            num_attention_heads=4,
            intermediate_size=128,
            max_position_embeddings=256,
            **common,
        ),
        "opt": lambda: t.OPTConfig(
            num_hidden_layers=2,
            hidden_size=64,
            num_attention_heads=4,
            ffn_dim=128,
            # OPT-350m embeds in another width than it computes in
            word_embed_proj_dim=32,
            do_layer_norm_before=False,
            max_position_embeddings=256,
            **common,
        ),
        "bloom": lambda: t.BloomConfig(n_layer=2, hidden_size=64, n_head=4, **common),
        "bert": lambda: t.BertConfig(**encoder, max_position_embeddings=256, **common),
        # the largest position is 256 after those of the padding id and what is in front of it
        "roberta": lambda: t.RobertaConfig(**encoder, max_position_embeddings=258, **padded),
        "xlm-roberta": lambda: t.XLMRobertaConfig(**encoder, max_position_embeddings=258, **padded),
        "mpnet": lambda: t.MPNetConfig(**encoder, max_position_embeddings=258, **padded),
        "distilbert": lambda: t.DistilBertConfig(
            dim=64, hidden_dim=128, n_layers=2, n_heads=4, max_position_embeddings=256, **common
        ),
        # two models whose embeddings are narrower than their layers
        "albert": lambda: t.AlbertConfig(
            **encoder, embedding_size=32, max_position_embeddings=256, **common
        ),
        "electra": lambda: t.ElectraConfig(
            **encoder, embedding_size=32, max_position_embeddings=256, **common
        ),
        "deberta-v2": lambda: t.DebertaV2Config(
            **encoder, **deberta, max_position_embeddings=256, type_vocab_size=0, **common
        ),
        # a window shorter than the texts it is tried on
        "modernbert": lambda: t.ModernBertConfig(
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=256,
            local_attention=16,
            cls_token_id=1,
            sep_token_id=2,
            **common,
        ),
    }
    torch.manual_seed(0)
    auto = _auto_class(kind)
    model = auto.from_config(configs[kind]())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.15)
    return model.eval()


def tiny_tokenizer() -> Any:
    """A byte-level BPE of the tiny vocabulary, trained on a few words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    wrapper: Any = PreTrainedTokenizerFast
    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["where is my parcel and when will it come"] * 10, trainer)
    return wrapper(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from a kind to its saved model, made at the first call."""
    from tests.seq2seq_models import KINDS, save_seq2seq

    folders: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in folders:
            path = tmp_path_factory.mktemp("models") / kind
            if kind in KINDS:
                save_seq2seq(kind, path)
            else:
                tiny_model(kind).save_pretrained(path)
                tiny_tokenizer().save_pretrained(path)
            folders[kind] = path
        return folders[kind]

    return folder


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Where exported bundles are. Nobody writes into one: processes that run tests side by side share them.

    $EDGEPT_TEST_BUNDLES is a folder in which they are kept for another run.
    """
    own = tmp_path_factory.getbasetemp()
    folder = (own if worker_id == "master" else own.parent) / "bundles"
    folder = Path(os.environ.get("EDGEPT_TEST_BUNDLES") or folder)
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def bundle_of(bundles: Path, model_folder: Callable[[str], Path]) -> Callable[..., Path]:
    """A function from a kind, a precision and a task to an exported bundle, made at the first call."""
    from edgept.export import export_model

    def bundle(kind: str, precision: str = "fp32", task: str | None = None) -> Path:
        path = bundles / f"{kind}-{precision}-{task}"
        if not path.exists():
            with path.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not path.exists():
                    source = shared(kind) if kind == "stories260K" else model_folder(kind)
                    export_model(str(source), path, precision=precision, task=task)
        return path

    return bundle


@pytest.fixture(scope="session")
def image_bundle_of(bundles: Path) -> Callable[..., Path]:
    """A function from a kind of image model, its own labels and a precision to an exported bundle."""
    from edgept.export import export_model
    from tests.image_models import save_image_model

    def bundle(kind: str, labels: tuple[str, ...] = (), precision: str = "fp32") -> Path:
        path = bundles / f"{kind}-{precision}-{len(labels)}"
        if not path.exists():
            with path.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not path.exists():
                    save_image_model(kind, path.with_suffix(".model"), labels)
                    export_model(
                        str(path.with_suffix(".model")), path, precision=precision, verify=False
                    )
        return path

    return bundle
