"""What fewer bits cost: a few tiny models with random weights, and the demo's own, which is trained."""

import random
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.exactness import shorten
from benchmarks.families import FAMILIES, save_model
from edgept.bundle import SEQ2SEQ_TASK
from edgept.errors import EdgeptError

__all__ = ["DEMO_MODES", "Cost", "demo_text", "measure_costs"]

# Of the tiny ones: kind, task, precisions.
_TINY = (
    ("llama", "text-generation", ("int8", "int4")),
    ("gpt2", "text-generation", ("int8", "int4")),
    ("bert", "text-classification", ("int8", "int8-dynamic", "int4")),
    ("modernbert", "token-classification", ("int8", "int8-dynamic", "int4")),
    ("t5", SEQ2SEQ_TASK, ("int8", "int4")),
)
_DEMO_PRECISIONS = ("fp32", "int8", "int4")
DEMO_MODES = ("intent", "german")
_EXCHANGES = 60  # about 4,000 tokens
_SEED = 7


@dataclass(frozen=True)
class Cost:
    """What one precision costs one model.

    Attributes:
        model: its name.
        task: as transformers names it.
        precision: of the weights.
        max_rel: largest difference to PyTorch in float32, over its largest output.
        top1: share of positions, of a classifier texts, whose most probable token or class is the same.
        perplexity: of the demo's corpus in PyTorch, and in the bundle; None of other models.
        right: share of right answers in percent under each of DEMO_MODES; empty of other models.
        refused: why it does not run; empty where it does.
    """

    model: str
    task: str
    precision: str
    max_rel: float = 0.0
    top1: float = 0.0
    perplexity: tuple[float, float] | None = None
    right: tuple[float, ...] = ()
    refused: str = ""


def measure_costs(folder: Path, *, quick: bool) -> list[Cost]:
    """Export every model in every precision, and compare with PyTorch under random prompts.

    Args:
        folder: for models and bundles; replaced.
        quick: the demo's model and one tiny one.
    """
    from tests.peft_adapters import other_peoples_warnings

    shutil.rmtree(folder, ignore_errors=True)
    with other_peoples_warnings():
        costs = _demo_costs(folder, questions=50 if quick else 200)
        for kind, task, precisions in _TINY:
            if quick and kind != "bert":
                continue
            family = next(item for item in FAMILIES if item.kind == kind)
            model = save_model(family, folder / kind)
            costs += [_cost(f"{family.title}, tiny", model, task, item) for item in precisions]
    return costs


def demo_text() -> str:
    """Exchanges of the demo's corpus that training never saw, in every mode of reply."""
    from edgept.demo.corpus import END, MODES, make_question, make_reply, wrap

    rng = random.Random(_SEED)
    questions = [make_question(rng, held_out=True) for _ in range(_EXCHANGES)]
    return "".join(
        f"{wrap(question.text)}{make_reply(rng, question, MODES[index % len(MODES)])}{END}"
        for index, question in enumerate(questions)
    )


def _cost(
    title: str, model: Path, task: str, precision: str, verify_text: str | None = None
) -> Cost:
    from edgept.export import export_model, verify_bundle

    bundle = model.parent / f"{model.name}-{precision}"
    try:
        export_model(str(model), bundle, precision=precision, task=task, verify=False)
        parity = verify_bundle(bundle, str(model), verify_text=verify_text)
    except EdgeptError as error:
        return Cost(title, task, precision, refused=shorten(error, model.parent))
    found = parity.perplexity
    perplexity = None if found is None else (found["reference"], found["bundle"])
    return Cost(title, task, precision, parity.max_rel, parity.top1_agreement, perplexity)


def _demo_costs(folder: Path, questions: int) -> list[Cost]:
    """Perplexity on the corpus, and right answers under the prompts that were tuned in float32."""
    from edgept.demo.evaluate import answer, held_out_questions, judge
    from edgept.demo.show import MODEL, PROMPTS
    from edgept.runtime.model import load

    source = Path(shutil.copytree(MODEL, folder / "demo"))
    asked = held_out_questions(questions, _SEED)
    costs = []
    for precision in _DEMO_PRECISIONS:
        cost = _cost(
            "the demo's, 2.8M parameters", source, "text-generation", precision, demo_text()
        )
        if not cost.refused:
            model = load(folder / f"demo-{precision}")
            right = []
            for mode in DEMO_MODES:
                prompt = model.load_prompt(PROMPTS / mode)
                replies = answer(model, [question.text for question in asked], prompt)
                right.append(judge(asked, replies, mode)["all"])
            cost = replace(cost, right=tuple(right))
        costs.append(cost)
    return costs
