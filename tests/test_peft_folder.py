import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import (
    CartridgeConfig,
    CPTConfig,
    LoraConfig,
    MultitaskPromptTuningConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from safetensors.numpy import save_file
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from edgept.errors import IncompatibleError, InvalidFileError, UsageError
from edgept.peft_folder import read_peft_folder
from edgept.peft_tensors import rows_to_kv
from edgept.peft_writer import write_peft_folder
from edgept.prompt import Prompt

# peft 0.21 calls what transformers 5.23 deprecates, and warns of what a test leaves out.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}
TOKENS = 3
REAL = Path(__file__).parents[2] / "shared/data/bloomz-560m-prompt-adapter"


def llama() -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(num_key_value_heads=2, **SIZES))


def adapt(model: Any, config: Any, folder: Path) -> Any:
    torch.manual_seed(1)
    adapted = get_peft_model(model, config).eval()
    adapted.save_pretrained(folder)
    # loaded again, as a user would: in inference mode
    return PeftModel.from_pretrained(adapted.get_base_model(), folder).eval()


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("config", "method"),
    [
        (PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=TOKENS), "prompt_tuning"),
        (PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=TOKENS), "p_tuning"),
        (CPTConfig(task_type="CAUSAL_LM", cpt_token_ids=[4, 5, 6]), "cpt"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_rows_are_those_that_peft_computes(config: Any, method: str, tmp_path: Path) -> None:
    model = adapt(llama(), config, tmp_path / "spanish")
    prompt = read_peft_folder(tmp_path / "spanish")
    with torch.no_grad():
        theirs = model.get_prompt(batch_size=1)[0]  # (P, hidden)
    np.testing.assert_array_equal(prompt.tensors["prompt_embeds"], theirs.numpy())
    assert (prompt.name, prompt.method, prompt.task) == ("spanish", method, "text-generation")
    assert prompt.fingerprint is None


def test_each_task_of_a_multitask_prompt(tmp_path: Path) -> None:
    config = MultitaskPromptTuningConfig(
        task_type="CAUSAL_LM", num_tasks=3, num_ranks=2, num_virtual_tokens=TOKENS
    )
    model = adapt(llama(), config, tmp_path)
    for task in range(3):
        with torch.no_grad():
            theirs = model.get_prompt(batch_size=1, task_ids=torch.tensor([task]))[0]
        ours = read_peft_folder(tmp_path, task_index=task).tensors["prompt_embeds"]
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-6, atol=1e-9)
    with pytest.raises(UsageError, match=r"3 tasks.*--task-index 0 to 2"):
        read_peft_folder(tmp_path)
    with pytest.raises(UsageError, match="task index 3"):
        read_peft_folder(tmp_path, task_index=3)


@pytest.mark.parametrize(
    "config",
    [
        PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=TOKENS),
        PrefixTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=TOKENS,
            prefix_projection=True,
            encoder_hidden_size=8,
        ),
        CartridgeConfig(task_type="CAUSAL_LM", num_virtual_tokens=TOKENS),
    ],
    ids=["prefix", "prefix-projection", "cartridge"],
)
def test_keys_and_values_are_those_that_peft_puts_in_the_cache(config: Any, tmp_path: Path) -> None:
    model = adapt(llama(), config, tmp_path)
    ours = read_peft_folder(tmp_path).tensors["prompt_kv"]
    assert ours.shape == (2, 2, 2, TOKENS, 4)  # (layers, 2, kv_heads, P, head_dim)
    with torch.no_grad():
        cache = model.get_prompt(batch_size=1)
    for layer, (keys, values, *_) in enumerate(cache):
        np.testing.assert_array_equal(ours[layer, 0], keys[0].numpy())
        np.testing.assert_array_equal(ours[layer, 1], values[0].numpy())


def test_a_linear_head_comes_along(tmp_path: Path) -> None:
    config = PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=TOKENS)
    model = adapt(BertForSequenceClassification(BertConfig(**SIZES)), config, tmp_path)
    prompt = read_peft_folder(tmp_path)
    head = model.get_base_model().classifier.modules_to_save["default"]
    np.testing.assert_array_equal(prompt.tensors["head.weight"], head.weight.detach().numpy())
    np.testing.assert_array_equal(prompt.tensors["head.bias"], head.bias.detach().numpy())
    assert prompt.task == "text-classification"


def test_question_answering_heads_come_along(tmp_path: Path) -> None:
    config = PromptTuningConfig(task_type="QUESTION_ANS", num_virtual_tokens=TOKENS)
    adapt(BertForQuestionAnswering(BertConfig(**SIZES)), config, tmp_path)
    prompt = read_peft_folder(tmp_path)
    assert prompt.tensors["head.weight"].shape == (2, 16)
    assert prompt.task == "question-answering"


def test_a_head_of_two_layers_comes_along_whole(tmp_path: Path) -> None:
    config = PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=TOKENS)
    adapt(RobertaForSequenceClassification(RobertaConfig(**SIZES)), config, tmp_path)
    shapes = {name: array.shape for name, array in read_peft_folder(tmp_path).tensors.items()}
    assert shapes == {
        "prompt_embeds": (TOKENS, 16),
        "head.weight": (2, 16),
        "head.bias": (2,),
        "head.dense.weight": (16, 16),
        "head.dense.bias": (16,),
    }


@pytest.mark.parametrize(
    "names",
    [
        ["pooler.dense.weight", "classifier.weight"],
        ["classifier.dense.weight", "classifier.weight"],
        ["classifier.dense.weight"],
        ["classifier.bias"],
        ["lm_head.weight"],
    ],
)
def test_what_else_was_trained_is_refused(names: list[str], tmp_path: Path) -> None:
    """Its effect would be missing."""
    config = PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=TOKENS)
    adapt(BertForSequenceClassification(BertConfig(**SIZES)), config, tmp_path)
    rows = np.ones((TOKENS, 16), np.float32)
    extra = {f"base_model.{name}": np.ones((16, 16), np.float32) for name in names}
    save_file({"prompt_embeddings": rows, **extra}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(IncompatibleError, match=r"also holds .*one linear layer"):
        read_peft_folder(tmp_path)


def test_an_adapter_that_learns_no_prompt_is_refused_by_name(tmp_path: Path) -> None:
    adapt(llama(), LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]), tmp_path)
    with pytest.raises(IncompatibleError, match="is a LORA adapter"):
        read_peft_folder(tmp_path)


def test_an_encoder_decoders_rows_are_the_encoders(tmp_path: Path) -> None:
    rows = np.arange(24, dtype=np.float32).reshape(6, 4)  # (2P, hidden)
    save_file({"prompt_embeddings": rows}, tmp_path / "adapter_model.safetensors")
    config = {"task_type": "SEQ_2_SEQ_LM", "num_transformer_submodules": 2, "token_dim": 4}
    (tmp_path / "adapter_config.json").write_text("{}")
    edit_config(tmp_path, peft_type="PROMPT_TUNING", num_virtual_tokens=3, **config)
    prompt = read_peft_folder(tmp_path)
    np.testing.assert_array_equal(prompt.tensors["prompt_embeds"], rows[:3])
    assert prompt.task == "text2text-generation"


def test_an_encoder_decoders_prefix_is_the_decoders_in_peft_s_order(tmp_path: Path) -> None:
    layers, heads, width = 3, 1, 2
    rows = np.arange(24, dtype=np.float32).reshape(2, 2 * layers * heads * width)  # (P, …)
    save_file({"prompt_embeddings": rows}, tmp_path / "adapter_model.safetensors")
    config = {"task_type": "SEQ_2_SEQ_LM", "num_transformer_submodules": 2, "token_dim": 2}
    config |= {"num_layers": layers, "num_attention_heads": heads, "num_virtual_tokens": 2}
    (tmp_path / "adapter_config.json").write_text("{}")
    edit_config(tmp_path, peft_type="PREFIX_TUNING", **config)
    saved = rows_to_kv(rows, layers, heads, width)
    np.testing.assert_array_equal(read_peft_folder(tmp_path).tensors["prompt_kv"], saved[[0, 2, 1]])
    edit_config(tmp_path, num_transformer_submodules=1)
    with pytest.raises(IncompatibleError, match="no place of its own for the encoder"):
        read_peft_folder(tmp_path)


@pytest.mark.skipif(not REAL.exists(), reason="../shared/data is not here")
def test_a_real_adapter_is_read() -> None:
    prompt = read_peft_folder(REAL)
    theirs = torch.load(REAL / "adapter_model.bin", weights_only=True)["prompt_embeddings"]
    np.testing.assert_array_equal(prompt.tensors["prompt_embeds"], theirs.numpy())
    assert prompt.base_model == "bigscience/bloomz-560m"
    assert prompt.name == "bloomz-560m-prompt-adapter"


def test_links_inside_of_a_folder_are_followed(tmp_path: Path) -> None:
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=TOKENS)
    adapt(llama(), config, tmp_path / "blobs")
    (tmp_path / "snapshot").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / "snapshot" / name).symlink_to(tmp_path / "blobs" / name)
    assert read_peft_folder(tmp_path / "snapshot").num_virtual_tokens == TOKENS


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no adapter_config\.json"):
        read_peft_folder(tmp_path)
    adapt(llama(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=TOKENS), tmp_path)
    with pytest.raises(UsageError, match="task index is for MULTITASK"):
        read_peft_folder(tmp_path, task_index=0)
    config = (tmp_path / "adapter_config.json").read_text()
    cases: list[tuple[dict[str, Any], str]] = [
        ({"num_virtual_tokens": 4}, "peft-shape"),
        ({"num_virtual_tokens": "3"}, "peft-config"),
        ({"num_virtual_tokens": -3}, "peft-config"),
        ({"num_virtual_tokens": True}, "peft-config"),
        ({"token_dim": 17}, "peft-shape"),
        ({"peft_type": "MULTITASK_PROMPT_TUNING"}, "peft-keys"),
        ({"peft_type": "PREFIX_TUNING", "num_layers": 5}, "peft-shape"),
        ({"peft_type": "PREFIX_TUNING", "num_attention_heads": 0}, "peft-config"),
    ]
    for changes, reason in cases:
        edit_config(tmp_path, **changes)
        with pytest.raises(InvalidFileError) as caught:
            read_peft_folder(tmp_path)
        assert caught.value.reason == reason, changes
        (tmp_path / "adapter_config.json").write_text(config)
    for text in ("[]", "{", "[" * 100_000, "\udcff"):
        (tmp_path / "adapter_config.json").write_text(text, errors="surrogateescape")
        with pytest.raises(InvalidFileError) as caught:
            read_peft_folder(tmp_path)
        assert caught.value.reason == "peft-config"
    (tmp_path / "adapter_config.json").write_text(config)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(UsageError, match="neither adapter_model"):
        read_peft_folder(tmp_path)


def test_control_characters_do_not_reach_the_terminal(tmp_path: Path) -> None:
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=TOKENS)
    adapt(llama(), config, tmp_path)
    edit_config(tmp_path, base_model_name_or_path="org/\x1b[2Jmodel\n")
    assert read_peft_folder(tmp_path).base_model == "org/[2Jmodel"


@pytest.mark.parametrize("tensor", ["prompt_embeds", "prompt_kv"])
def test_peft_loads_what_is_written(tensor: str, tmp_path: Path) -> None:
    shape = {"prompt_embeds": (TOKENS, 16), "prompt_kv": (2, 2, 2, TOKENS, 4)}[tensor]
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    prompt = Prompt({tensor: values}, name="spanish", base_model="org/model")
    write_peft_folder(prompt, None, tmp_path / "out")
    model = PeftModel.from_pretrained(llama(), tmp_path / "out").eval()
    with torch.no_grad():
        theirs = model.get_prompt(batch_size=1)
    if tensor == "prompt_embeds":
        np.testing.assert_array_equal(theirs[0].numpy(), values)
    else:
        for layer, (keys, kv_values, *_) in enumerate(theirs):
            np.testing.assert_array_equal(keys[0].numpy(), values[layer, 0])
            np.testing.assert_array_equal(kv_values[0].numpy(), values[layer, 1])
    back = read_peft_folder(tmp_path / "out")
    np.testing.assert_array_equal(back.tensors[tensor], values)
    assert (back.task, back.base_model) == ("text-generation", "org/model")


def test_what_a_folder_cannot_say_is_refused(tmp_path: Path) -> None:
    deep = Prompt({"prompt_embeds": np.zeros((2, 3, 4), np.float32)})
    head = Prompt(
        {"prompt_embeds": np.zeros((3, 4), np.float32), "head.weight": np.zeros((2, 4), np.float32)}
    )
    for prompt, why in ((deep, "a peft folder takes"), (head, "Give --bundle")):
        with pytest.raises(IncompatibleError, match=why):
            write_peft_folder(prompt, None, tmp_path / "out")
    assert not (tmp_path / "out").exists()
