"""The README's table: swap, first token and decoding, against what a user would run instead.

    python -m benchmarks.first_table [FOLDER] [--rounds N]

All sides run the same random 135M Llama on the same number of threads, interleaved, a round each in
turn; figures are medians over rounds with the lower and upper quartile. edgept and onnxruntime-genai
run the very same int4 file; peft runs the float32 weights that it was made from. Needs the extras
`cpu` and `export`.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np

from benchmarks.models import VOCABULARY, make_llama_135m, make_prompts

TEXT_TOKENS = 64
NEW_TOKENS = 64
PROMPTS = 6  # in turn: more than the runtime keeps in place, so that every swap copies
VIRTUAL_TOKENS = 20

# one round: milliseconds to swap, to the first token, and per output token
Round = tuple[float, float, float]


def edgept_rounds(bundle: Path, prompts: list[Path], threads: int) -> Iterator[Round]:
    import edgept

    model = edgept.load(bundle, threads=threads)
    loaded = [model.load_prompt(path) for path in prompts]
    random = np.random.default_rng(0)
    turn = 0
    while True:
        turn += 1
        ids = random.integers(3, VOCABULARY, TEXT_TOKENS).tolist()
        latency = model.generate(
            ids, prompt=loaded[turn % len(loaded)], max_new_tokens=NEW_TOKENS
        ).latency
        if latency.ttft_ms is not None and latency.tpot_ms is not None:
            yield latency.swap_ms, latency.ttft_ms, latency.tpot_ms


def genai_rounds(bundle: Path, adapters: list[Path], threads: int) -> Iterator[Round]:
    import onnxruntime_genai as genai

    config = genai.Config(str(bundle))
    config.overlay(
        json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}})
    )
    model = genai.Model(config)
    loaded = genai.Adapters(model)
    for path in adapters:
        loaded.load(str(path), path.stem)
    random = np.random.default_rng(0)
    virtual = np.arange(VOCABULARY, VOCABULARY + VIRTUAL_TOKENS)
    turn = 0
    while True:
        turn += 1
        ids = random.integers(3, VOCABULARY, TEXT_TOKENS)
        begin = time.perf_counter()
        parameters = genai.GeneratorParams(model)
        parameters.set_search_options(
            max_length=VIRTUAL_TOKENS + TEXT_TOKENS + NEW_TOKENS, do_sample=False
        )
        generator = genai.Generator(model, parameters)
        generator.set_active_adapter(loaded, adapters[turn % len(adapters)].stem)
        swapped = time.perf_counter()
        generator.append_tokens(np.concatenate([virtual, ids]).astype(np.int32))
        generator.generate_next_token()
        first = time.perf_counter()
        for _ in range(NEW_TOKENS - 1):
            generator.generate_next_token()
        ended = time.perf_counter()
        yield milliseconds(begin, swapped, first, ended)


def peft_rounds(
    model_folder: Path, adapters: list[Path], threads: int, dtype: str
) -> Iterator[Round]:
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    base: Any = AutoModelForCausalLM.from_pretrained(model_folder, dtype=getattr(torch, dtype))
    model: Any = peft.PeftModel.from_pretrained(base, str(adapters[0]), adapter_name="task-0")
    for path in adapters[1:]:
        model.load_adapter(str(path), path.name)
    model.eval()
    random = np.random.default_rng(0)
    turn = 0

    def generate(ids: Any, count: int) -> None:
        with torch.inference_mode():
            model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=count,
                min_new_tokens=count,
                do_sample=False,
            )

    while True:
        turn += 1
        ids = torch.from_numpy(random.integers(3, VOCABULARY, (1, TEXT_TOKENS)))
        begin = time.perf_counter()
        model.set_adapter(f"task-{turn % len(adapters)}")
        swapped = time.perf_counter()
        generate(ids, 1)
        first = time.perf_counter()
        generate(ids, NEW_TOKENS)
        ended = time.perf_counter()
        # the second call does the prefill again, so its time is taken off
        yield milliseconds(begin, swapped, first, ended - (first - swapped))


def milliseconds(begin: float, swapped: float, first: float, ended: float) -> Round:
    return (
        (swapped - begin) * 1e3,
        (first - begin) * 1e3,
        (ended - first) * 1e3 / (NEW_TOKENS - 1),
    )


def spread(values: list[float]) -> str:
    low, _, high = quantiles(values, n=4)
    digits = 3 if median(values) < 1 else 1
    return f"{median(values):.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("build/first_table"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    threads: int = arguments.threads

    from edgept import load_prompt_source, write_prompt
    from edgept.bundle import read_manifest
    from edgept.export import export_model
    from edgept.onnx_adapter import write_onnx_adapter
    from edgept.prompt_source import bind

    model_folder = make_llama_135m(folder / "llama-135m")
    peft_folders = make_prompts(model_folder, folder / "peft", PROMPTS)
    bundle = folder / "bundle"
    if not (bundle / "edgept.json").is_file():
        export_model(str(model_folder), bundle, progress=lambda step: print(f"… {step}"))
    manifest = read_manifest(bundle)
    prompts, adapters = [], []
    for path in peft_folders:
        prompt = bind(load_prompt_source(path, manifest), manifest)
        prompts.append(folder / f"{path.name}.safetensors")
        write_prompt(prompt, prompts[-1], overwrite=True)
        adapters.append(folder / f"{path.name}.onnx_adapter")
        write_onnx_adapter(prompt, manifest, adapters[-1], overwrite=True)

    sides: dict[str, Callable[[], Iterator[Round]]] = {
        "edgept, int4": lambda: edgept_rounds(bundle, prompts, threads),
        "onnxruntime-genai, same file": lambda: genai_rounds(bundle, adapters, threads),
        "peft on PyTorch, bfloat16": lambda: peft_rounds(
            model_folder, peft_folders, threads, "bfloat16"
        ),
        "peft on PyTorch, float32": lambda: peft_rounds(
            model_folder, peft_folders, threads, "float32"
        ),
    }
    rounds = {name: start() for name, start in sides.items()}
    for _ in range(2):  # warm-up
        for side in rounds.values():
            next(side)
    results: dict[str, list[Round]] = {name: [] for name in sides}
    for _ in range(arguments.rounds):
        for name, side in rounds.items():
            results[name].append(next(side))

    size = prompts[0].stat().st_size
    print(
        f"\n{platform.machine()}, {threads} threads, {arguments.rounds} interleaved rounds; a random "
        f"135M Llama; {VIRTUAL_TOKENS} virtual and {TEXT_TOKENS} text tokens, {NEW_TOKENS} new ones; "
        f"prompt file {size / 1e3:.0f} kB. Median (quartiles) in ms.\n"
    )
    print("| | swap | first token | per token |\n|---|---|---|---|")
    for name, values in results.items():
        columns = [spread([value[phase] for value in values]) for phase in range(3)]
        print(f"| {name} | {' | '.join(columns)} |")


if __name__ == "__main__":
    main()
