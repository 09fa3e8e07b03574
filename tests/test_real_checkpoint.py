"""A real peft checkpoint from the wild: 8 virtual tokens for a BLOOM of hidden size 1024, as .bin."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner

import edgept
from edgept.cli import main
from tests.conftest import VOCABULARY, shared


def edgept_command(*arguments: object) -> Any:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_inspected_and_refused_where_it_does_not_fit(bundle_of: Callable[..., Path]) -> None:
    adapter, bundle = shared("bloomz-560m-prompt-adapter"), bundle_of("stories260K")
    result = edgept_command("prompt", "inspect", adapter, "--json")
    assert result.exit_code == 0
    seen = json.loads(result.stdout)
    assert (seen["method"], seen["virtual_tokens"]) == ("prompt_tuning", 8)
    assert seen["base_model"] == "bigscience/bloomz-560m"
    assert seen["fingerprint"] is None
    for command in (
        ["prompt", "pack", adapter, "-b", bundle, "-o", bundle / "never.safetensors"],
        ["run", "-b", bundle, "--prompt", adapter, "Tweet text"],
    ):
        result = edgept_command(*command)
        assert result.exit_code == 4
        assert "(8, 1024)" in result.stderr
        assert "stories260K" in result.stderr
    assert not (bundle / "never.safetensors").exists()


def test_packed_and_run_where_it_fits(tmp_path: Path) -> None:
    """Its own model is not at hand; one of the same width takes it."""
    import torch
    from transformers import AutoModelForCausalLM, BloomConfig

    from edgept.export import export_model

    adapter = shared("bloomz-560m-prompt-adapter")
    torch.manual_seed(0)
    auto: Any = AutoModelForCausalLM
    config = BloomConfig(vocab_size=VOCABULARY, hidden_size=1024, n_head=16, n_layer=1)
    auto.from_config(config).save_pretrained(tmp_path / "bloomz-560m")
    export_model(str(tmp_path / "bloomz-560m"), tmp_path / "bundle", precision="fp32", verify=False)
    packed = tmp_path / "complaint.safetensors"
    result = edgept_command("prompt", "pack", adapter, "-b", tmp_path / "bundle", "-o", packed)
    assert result.exit_code == 0, result.output
    assert "warning" not in result.stderr  # peft's config names a model of the same name
    prompt = edgept.read_prompt(packed)
    rows = torch.load(adapter / "adapter_model.bin", weights_only=True)["prompt_embeddings"].numpy()
    np.testing.assert_array_equal(prompt.tensors["prompt_embeds"], rows)
    model = edgept.load(tmp_path / "bundle")
    logits = model.logits([5, 6, 7], prompt=model.load_prompt(packed))
    assert np.abs(logits - model.logits([5, 6, 7])).max() > 1e-3
