"""`edgept run`: answer or classify texts under one prompt or several."""

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgept.cli.answer import show, warn_of_other_base
from edgept.cli.options import bundle_option, json_option

if TYPE_CHECKING:
    from edgept.runtime.classifier import Classification
    from edgept.runtime.content import Content, LoadedPrompt
    from edgept.runtime.generation import Generation
    from edgept.runtime.model import Model

__all__ = ["run"]

_MAX_REQUEST = 16 << 20  # characters; no model takes as many


@click.command()
@click.argument("text", required=False)
@bundle_option
@click.option(
    "--prompt",
    "prompts",
    multiple=True,
    metavar="[NAME=]FILE",
    help="Prompt file, peft folder, or .pt/.bin/.safetensors/.npy with the tensor. Several give "
    "several answers. Without one, the plain model answers.",
)
@click.option("--task-index", type=click.IntRange(min=0), help="Task of a multitask prompt.")
@click.option(
    "--input",
    "input_file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="File with a request on every line; - is stdin.",
)
@click.option("--chat", is_flag=True, help="Wrap each text with the model's chat template.")
@click.option("--system", help="System message of --chat.")
@click.option(
    "-n",
    "--max-new-tokens",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Longest answer, in tokens.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    default=0.0,
    help="0 takes the most probable token; higher is more varied. [default: 0]",
)
@click.option("--top-k", type=click.IntRange(min=0), default=0, help="Sample among the K best.")
@click.option(
    "--top-p",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    help="Sample among the best that hold this probability.",
)
@click.option(
    "--repetition-penalty",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    help="Above 1 makes repeating less probable.",
)
@click.option("--seed", type=click.IntRange(min=0), help="Of the sampling.")
@click.option("--stop", multiple=True, help="End at this text. May be given several times.")
@click.option(
    "--num-beams",
    type=click.IntRange(1, 64),
    help="Beams of beam search, on an encoder-decoder. 1 is greedy. [default: the model's own]",
)
@click.option(
    "--length-penalty",
    type=float,
    help="Of beam search: above 0 favours long answers. [default: the model's own]",
)
@click.option("--threads", type=click.IntRange(min=1), help="[default: every core]")
@click.option(
    "--provider", "providers", multiple=True, help="onnxruntime provider. [default: the bundle's]"
)
@click.option("--max-length", type=click.IntRange(min=1), help="Longest sequence in tokens.")
@json_option
@click.pass_context
def run(
    context: click.Context,
    text: str | None,
    bundle: Path | None,
    prompts: tuple[str, ...],
    task_index: int | None,
    input_file: str | None,
    chat: bool,
    system: str | None,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    repetition_penalty: float,
    seed: int | None,
    stop: tuple[str, ...],
    num_beams: int | None,
    length_penalty: float | None,
    threads: int | None,
    providers: tuple[str, ...],
    max_length: int | None,
    as_json: bool,
) -> None:
    """Answer TEXT under a prompt; on a classification bundle, print its label and probability.

    \N{BACKSPACE}
      edgept run --prompt spanish.pt "Where is my parcel?"
      edgept run --prompt es=spanish.pt --prompt de=german.pt "Where is my parcel?"
      edgept run --prompt spanish.pt --input questions.txt --json

    Without TEXT and --input, stdin is one request; on a terminal, an interactive session in which
    /prompt NAME swaps. Answers go to stdout, latency to stderr; --json prints one object a line.
    """
    if text is not None and input_file is not None:
        raise click.UsageError("give TEXT or --input, not both.")
    if system is not None and not chat:
        raise click.UsageError("--system needs --chat.")
    from edgept.runtime.model import load

    model = load(bundle, threads=threads, providers=providers or None, max_length=max_length)
    loaded = _load_prompts(model, prompts, task_index)
    options: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "repetition_penalty": repetition_penalty,
        "seed": seed,
        "stop": stop,
        "num_beams": num_beams,
        "length_penalty": length_penalty,
    }
    classifies = model.manifest.task == "text-classification"
    if classifies:
        _refuse_options(context, chat=chat, of=options)

    def content(request: str) -> "Content":
        if not chat:
            return request
        messages = [{"role": "system", "content": system}] if system is not None else []
        return model.chat([*messages, {"role": "user", "content": request}])

    if text is None and input_file is None and sys.stdin is not None and sys.stdin.isatty():
        from edgept.cli.session import converse

        converse(model, loaded, content, options)
        return
    answers: list[tuple[str, LoadedPrompt | None]] = [*loaded.items()] or [("", None)]
    for request in _requests(text, input_file):
        for name, prompt in answers:
            if as_json:
                if classifies:
                    click.echo(_to_json(request, model.classify(content(request), prompt=prompt)))
                else:
                    result = model.generate(content(request), prompt=prompt, **options)
                    click.echo(_to_json(request, result))
            else:
                if len(loaded) > 1:
                    click.secho(f"{name}: ", bold=True, nl=False)
                show(model, content(request), prompt, options)


def _refuse_options(context: click.Context, *, chat: bool, of: Mapping[str, Any]) -> None:
    """A classification generates nothing, so options of a generation are a mistake."""
    given = [
        name
        for name in of
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
    ]
    if chat or given:
        name = "chat" if chat else given[0].replace("_", "-")
        raise click.UsageError(f"this bundle classifies texts; --{name} is for text-generation.")


def _load_prompts(
    model: "Model", prompts: tuple[str, ...], task_index: int | None
) -> dict[str, "LoadedPrompt"]:
    loaded: dict[str, LoadedPrompt] = {}
    for given in prompts:
        name, separator, path = given.partition("=")
        # os.path's, unlike Path's, is False for a name that is too long
        if not separator or os.path.exists(given):  # noqa: PTH110
            name, path = "", given
        prompt = model.load_prompt(path, name=name or None, task_index=task_index)
        warn_of_other_base(prompt.prompt, model.manifest)
        if prompt.name in loaded:
            raise click.UsageError(
                f"two prompts are called {prompt.name!r}; tell them apart with --prompt NAME=FILE."
            )
        loaded[prompt.name] = prompt
    return loaded


def _requests(text: str | None, input_file: str | None) -> Iterator[str]:
    if text is not None:
        yield text
    elif input_file is not None:
        with click.open_file(input_file, encoding="utf-8", errors="replace") as lines:
            while line := lines.readline(_MAX_REQUEST):
                _check_size(line)
                if line.strip():
                    yield line.rstrip("\r\n")
    elif sys.stdin is None:
        raise click.UsageError("no TEXT, no --input, and stdin is closed.")
    else:
        request = sys.stdin.buffer.read(_MAX_REQUEST).decode("utf-8", errors="replace")
        _check_size(request)
        if not request.strip():
            raise click.UsageError("no TEXT, no --input, and stdin is empty.")
        yield request.rstrip("\r\n")


def _check_size(request: str) -> None:
    if len(request) >= _MAX_REQUEST:
        raise click.UsageError(
            f"a request of {_MAX_REQUEST >> 20} million characters or more. Is it a text?"
        )


def _to_json(request: str, result: "Generation | Classification") -> str:
    import json
    from dataclasses import asdict

    fields = asdict(result)
    if "logits" in fields:
        fields["logits"] = fields["logits"].tolist()
    fields["latency"]["tokens_per_second"] = result.latency.tokens_per_second
    return json.dumps({"input": request, **fields}, ensure_ascii=False)
