"""The README's table: swap, first token and decoding, against what a user would run instead.

    python -m benchmarks.first_table [FOLDER] [--quick]

All sides run the same random 135M Llama on the same number of threads, interleaved, a round each in
turn, under one of several tasks; figures are medians over rounds with the quartiles. edgept and
onnxruntime-genai run the very same int4 file; peft runs the float32 weights that it was made from.
"""

from collections.abc import Callable

from benchmarks.claim import Claim, Setting, random_ids, run_script, spread, table
from benchmarks.files import TASKS
from benchmarks.peers import Side, close_all, interleave, load_tasks, start_sides
from benchmarks.runtimes import RUNTIMES, Answer

__all__ = ["measure"]

_TEXT = 64  # tokens
_SIDES = ("genai", "peft-bf16", "peft-fp32")


def measure(setting: Setting) -> Claim:
    """Run those sides that take the same prompts."""
    effort, files = setting.effort, setting.files(setting.shapes[0])
    names = ["edgept", *(name for name in _SIDES if name in setting.peers)]
    sides, missing = start_sides(names, files, setting.threads, setting.say)
    setting.say("the README's table")
    try:
        load_tasks(sides, TASKS, missing)
        asked = {name: _under_tasks(side, effort.new_tokens) for name, side in sides.items()}
        results = interleave(effort.rounds, asked, missing, every=effort.every)
    finally:
        close_all(sides)
    found = {name: list(answers.values()) for name, answers in results.items()}
    rows = [
        (
            RUNTIMES[name].title,
            spread([answer.swap_ms for answer in answers]),
            spread([answer.ttft_ms for answer in answers]),
            spread([answer.tpot_ms for answer in answers]),
        )
        for name, answers in found.items()
    ]
    size = files.prompts[0].stat().st_size
    about = (
        f"{setting.shapes[0]}, {setting.threads} threads, {setting.say_rounds()}; 20 virtual "
        f"and {_TEXT} text tokens, {effort.new_tokens} new ones; a prompt file of {size / 1e3:.0f} kB. "
        "Median (quartiles) in ms."
    )
    body = table(("", "swap", "first token", "per token"), rows)
    raw = {name: [vars(answer) for answer in answers] for name, answers in found.items()}
    return Claim("The README's table", about, body, [], missing, raw)


def _under_tasks(side: Side, new_tokens: int) -> Callable[[int], Answer]:
    return lambda number: side.ask(random_ids(_TEXT, number + 99), number % TASKS, new_tokens)


if __name__ == "__main__":
    run_script(measure, __doc__)
