"""How often the demo's model answers right, on questions that training never saw.

    edgept demo && python -m edgept.demo.evaluate edgept-demo

Runs the exported bundle under each prompt file, as a device would, and prints a table.
"""

import argparse
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path

from edgept.demo.corpus import MODES, Question, make_question
from edgept.demo.judge import mode_of, reply_matches
from edgept.runtime.content import LoadedPrompt
from edgept.runtime.model import Model, load

BATCH = 50
MAX_REPLY_TOKENS = 64


def answer(model: Model, questions: Sequence[str], prompt: LoadedPrompt | None) -> list[str]:
    """Greedy replies to what customers wrote; without a prompt, the plain model's."""
    contents = [model.chat([{"role": "user", "content": question}]) for question in questions]
    replies: list[str] = []
    for begin in range(0, len(contents), BATCH):
        batch = [(content, prompt) for content in contents[begin : begin + BATCH]]
        results = model.generate_batch(batch, max_new_tokens=MAX_REPLY_TOKENS)
        replies += [result.text for result in results]
    return replies


def judge(questions: Sequence[Question], replies: Sequence[str], mode: str) -> dict[str, float]:
    """Share of replies, in percent, that are right in each respect.

    Returns:
        "mode": the language, or the desk in the customer's language, or a label;
        "intent": a reply to this intent in this mode (desks answer by topic), of the questions
        where it shows: labels, and replies to a question with an order number;
        "number", "name": copied, of the questions that have one (not for labels);
        "all": the whole reply is one that the corpus could have given.
    """
    scores: dict[str, list[bool]] = {k: [] for k in ("mode", "intent", "number", "name", "all")}
    for question, reply in zip(questions, replies, strict=True):
        scores["mode"].append(mode_of(reply, question) == mode)
        scores["all"].append(reply_matches(reply, question, mode, copied=True))
        number, name = question.values.get("order"), question.values.get("name")
        if mode == "intent" or number is not None:
            scores["intent"].append(reply_matches(reply, question, mode, copied=False))
        if mode != "intent":
            if number is not None:
                scores["number"].append(number in re.findall(r"\d+", reply))
            if name is not None:
                scores["name"].append(re.search(rf"\b{name}\b", reply) is not None)
    return {k: round(100 * sum(v) / len(v), 1) for k, v in scores.items() if v}


def held_out_questions(count: int, seed: int) -> list[Question]:
    """Questions that share no sentence, order number, name or city with training."""
    rng = random.Random(seed)
    return [make_question(rng, held_out=True) for _ in range(count)]


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """The results as a Markdown table; without a prompt in brackets."""
    lines = [
        "| Prompt | Right language, desk or label | Right intent | Order number | Name | All right |",
        "|---|---|---|---|---|---|",
    ]
    for mode, result in results.items():
        cells = [
            f"{result['prompt'][key]:.1f} % ({result['none'][key]:.1f} %)"
            if key in result["prompt"]
            else "–"
            for key in ("mode", "intent", "number", "name", "all")
        ]
        lines.append(f"| {mode} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("edgept-demo"))
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", type=Path, help="also write figures and the replies here")
    args = parser.parse_args()
    model = load(args.folder / "bundle")
    questions = held_out_questions(args.questions, args.seed)
    asked = [question.text for question in questions]
    plain = answer(model, asked, None)
    results = {}
    examples: list[dict[str, str]] = [
        {"question": q.text, "none": r} for q, r in zip(questions, plain, strict=True)
    ]
    for mode in MODES:
        prompt = model.load_prompt(args.folder / f"{mode}.safetensors")
        replies = answer(model, asked, prompt)
        results[mode] = {
            "prompt": judge(questions, replies, mode),
            "none": judge(questions, plain, mode),
        }
        for example, reply in zip(examples, replies, strict=True):
            example[mode] = reply
    print(table(results))
    if args.json is not None:
        text = json.dumps({"results": results, "examples": examples}, indent=1, ensure_ascii=False)
        args.json.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
