"""`edgept run`: answer, classify, tag or embed texts, or look at pictures, under one prompt or several."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgept.cli.answer import show, warn_of_other_base
from edgept.cli.drawings import Drawings
from edgept.cli.findings import to_json
from edgept.cli.options import bundle_option, json_option
from edgept.cli.pictures import Output, list_pictures, look
from edgept.cli.reading import read
from edgept.cli.requests import read_requests, read_text
from edgept.cli.task_options import ANSWERS, SAYS, WRITES, refuse_options
from edgept.cli.vectors import write_vectors

if TYPE_CHECKING:
    from edgept.runtime.content import LoadedPrompt
    from edgept.runtime.model import Model

__all__ = ["run"]

# Requests of a file that a model reads together.
_BATCH = 64


@click.command()
@click.argument("inputs", nargs=-1, metavar="[TEXT | PICTURE...]")
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
    help="File with a request on every line, or a JSON object on every line of a .jsonl file, or the path "
    "of a picture on every line; - is stdin.",
)
@click.option(
    "--context",
    "context_file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="File with the text that questions are about.",
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
@click.option(
    "--top-k",
    type=click.IntRange(min=0),
    default=0,
    help="Sample among the K best; of answers to a question, print the K best.",
)
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
@click.option(
    "--max-answer-len",
    type=click.IntRange(min=1),
    default=15,
    show_default=True,
    help="Longest answer that is looked for in a context, in tokens.",
)
@click.option(
    "--no-answer",
    "handle_impossible_answer",
    is_flag=True,
    help="Let the answer be that there is none, where the model was trained for it.",
)
@click.option(
    "--aggregation",
    type=click.Choice(["none", "simple", "first", "average", "max"]),
    default="simple",
    show_default=True,
    help="How tokens become entities.",
)
@click.option(
    "--truncate", is_flag=True, help="Cut texts that are longer than the model, and say so."
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Least score of a detection in a picture.",
)
@click.option(
    "--save",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder for pictures with boxes, segments or labels drawn on them.",
)
@click.option(
    "--npy",
    type=click.Path(path_type=Path),
    help="File for vectors, as numpy reads it; not a number where a picture cannot be read.",
)
@click.option("--force", is_flag=True, help="Replace the files of --npy and --save.")
@click.option("--threads", type=click.IntRange(min=1), help="[default: every core]")
@click.option(
    "--provider", "providers", multiple=True, help="onnxruntime provider. [default: the bundle's]"
)
@click.option("--max-length", type=click.IntRange(min=1), help="Longest sequence in tokens.")
@json_option
@click.pass_context
def run(
    context: click.Context,
    inputs: tuple[str, ...],
    bundle: Path | None,
    prompts: tuple[str, ...],
    task_index: int | None,
    input_file: str | None,
    context_file: str | None,
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
    max_answer_len: int,
    handle_impossible_answer: bool,
    aggregation: str,
    truncate: bool,
    threshold: float,
    save: Path | None,
    npy: Path | None,
    force: bool,
    threads: int | None,
    providers: tuple[str, ...],
    max_length: int | None,
    as_json: bool,
) -> None:
    """Answer TEXT under a prompt, or say what the model reads in it, or sees in each PICTURE.

    What that is depends on the bundle: a continuation, a class, entities, the answer to a question
    about --context, or a vector. PICTURE is a file, a folder or a pattern; what is looked for in it
    depends on the prompt: a class, segments, or things with boxes around them.

    \N{BACKSPACE}
      edgept run --prompt spanish.pt "Where is my parcel?"
      edgept run --prompt es=spanish.pt --prompt de=german.pt "Where is my parcel?"
      edgept run --prompt spanish.pt --input questions.txt --json
      edgept run -b answers/ --context manual.txt "How long is the warranty?"
      edgept run -b vectors/ --input texts.txt --npy vectors.npy
      edgept run -b vit/ --prompt retina.safetensors scans/ eye.png --save seen

    Without TEXT and --input, stdin is one request, or names a picture a line; on a terminal, an
    interactive session in which /prompt NAME swaps. Answers go to stdout, latency to stderr; --json
    prints one object a line. A picture that cannot be read is an error at the end, and no other's.
    """
    if inputs and input_file is not None:
        raise click.UsageError("give TEXT (or pictures) or --input, not both.")
    if system is not None and not chat:
        raise click.UsageError("--system needs --chat.")
    if npy is not None and os.path.lexists(npy) and not force:
        raise click.UsageError(
            f"{npy} exists already. Choose another name, or replace it with --force."
        )
    from edgept.runtime.model import load

    model = load(bundle, threads=threads, providers=providers or None, max_length=max_length)
    task = model.manifest.task
    refuse_options(context, task)
    looks = model.manifest.image is not None
    if len(inputs) > 1 and not looks:
        raise click.UsageError(
            f"this bundle {SAYS[task]}; {len(inputs)} arguments were given, expected one TEXT. Put it in "
            "quotes, or a file's name behind --input."
        )
    text = inputs[0] if inputs else None
    is_session = text is None and input_file is None and _is_terminal()
    pictures = [] if is_session or not looks else list_pictures(inputs, input_file)
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
    if task == ANSWERS:
        options = {
            "top_k": max(top_k, 1),
            "max_answer_len": max_answer_len,
            "handle_impossible_answer": handle_impossible_answer,
        }
    elif looks:
        options = {"threshold": threshold}
    elif task not in WRITES:
        options = {"truncate": truncate}
        if task == "token-classification":
            options["aggregation"] = aggregation
    asked_about = None if context_file is None else read_text(context_file)

    def content(request: str) -> Any:
        if asked_about is not None:
            return request, asked_about
        if not chat:
            return request
        messages = [{"role": "system", "content": system}] if system is not None else []
        return model.chat([*messages, {"role": "user", "content": request}])

    asks_context = task == ANSWERS and asked_about is None
    if is_session:
        if asks_context:
            raise click.UsageError(
                "this bundle answers questions about a text: give --context FILE."
            )
        from edgept.cli.session import converse

        converse(model, loaded, content, options)
        return
    answers: list[tuple[str, LoadedPrompt | None]] = [*loaded.items()] or [("", None)]
    if looks:
        drawings = None if save is None else Drawings(save, pictures, force=force)
        output = Output(as_json, drawings, npy is not None, several=len(loaded) > 1)
        look(model, pictures, answers, options, output)
        if npy is not None and len(output.failed) < len(pictures):
            write_vectors(npy, output.kept, force=force)
        if output.failed:
            if len(pictures) > 1:
                click.echo(f"{len(output.failed)} of {len(pictures)} pictures failed", err=True)
            context.exit(next(iter(output.failed.values())).exit_code)
        return
    requests = read_requests(text, input_file, content, asks_context=asks_context)
    if task not in WRITES:
        # a file is read ahead; of stdin, each line is answered as it comes
        size = _BATCH if input_file not in (None, "-") else 1
        vectors = read(
            model, requests, answers, options, size, as_json=as_json, quiet=npy is not None
        )
        if npy is not None:
            write_vectors(npy, vectors, force=force)
        return
    for shown, request in requests:
        for name, prompt in answers:
            if as_json:
                click.echo(to_json(shown, model.generate(request, prompt=prompt, **options)))
            else:
                if len(loaded) > 1:
                    click.secho(f"{name}: ", bold=True, nl=False)
                show(model, request, prompt, options)


def _is_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


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
