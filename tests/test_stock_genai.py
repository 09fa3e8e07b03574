"""An onnxruntime-genai program that knows nothing of edgept runs a bundle and its prompts."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

import edgept
from edgept.cli import main
from tests.conftest import VOCABULARY, shared
from tests.peft_adapters import (
    TEXT,
    base_model,
    load_adapter,
    make_adapter,
    peft_generate,
    token_ids,
)

# Nothing in here is edgept's, but the ids from the vocabulary's size on that stand for the prompt.
CLIENT = f"""
import json, sys
import numpy as np
import onnxruntime_genai as og

folder, adapter, count, ids = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])
model = og.Model(folder)
adapters = og.Adapters(model)
adapters.load(adapter, "task")
parameters = og.GeneratorParams(model)
parameters.set_search_options(max_length=120, do_sample=False)

def generate(ids, adapter):
    generator = og.Generator(model, parameters)
    if adapter:
        generator.set_active_adapter(adapters, adapter)
    generator.append_tokens(np.array(ids, np.int32))
    tokens = []
    while len(tokens) < 64 and not generator.is_done():
        generator.generate_next_token()
        tokens.append(int(generator.get_next_tokens()[0]))
    return tokens

virtual = list(range({VOCABULARY}, {VOCABULARY} + count))
text = og.Tokenizer(model).encode({TEXT!r})
print(json.dumps([generate(virtual + ids, "task"), generate(ids, None), [int(i) for i in text]]))
"""


@pytest.mark.parametrize("kind", ["stories260K", "llama"])
def test_the_same_64_tokens_as_peft(
    kind: str,
    bundle_of: Callable[..., Path],
    model_folder: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    base = shared(kind) if kind == "stories260K" else model_folder(kind)
    bundle = bundle_of(kind)
    folder = make_adapter("prompt_tuning", base, tmp_path / "spanish")
    adapter = tmp_path / "spanish.onnx_adapter"
    arguments = [
        "prompt",
        "export",
        folder,
        "--format",
        "onnx-adapter",
        "-b",
        bundle,
        "-o",
        adapter,
    ]
    exporting = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert exporting.exit_code == 0, exporting.output
    ids = token_ids(base)
    command = [sys.executable, "-c", CLIENT, bundle, adapter, "7", json.dumps(ids)]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    under_prompt, plain, text_ids = json.loads(done.stdout)
    assert under_prompt == peft_generate(load_adapter(base, folder), ids)
    assert len(under_prompt) == 64
    assert plain == peft_generate(base_model(base), ids)
    model = edgept.load(bundle, threads=1)
    prompt = model.load_prompt(folder)
    assert under_prompt == model.generate(TEXT, prompt=prompt, max_new_tokens=64).token_ids
    # its tokenizer leaves out the beginning-of-sequence token that transformers adds to stories260K
    assert text_ids == [token for token in ids if token != 1]
