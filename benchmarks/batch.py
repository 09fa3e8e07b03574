"""A batch of eight rows, each under a prompt of its own, over one whose rows share a prompt.

    python -m benchmarks.batch [FOLDER] [--quick]

No peer does this: peft's prompts and onnxruntime-genai's adapters hold for a whole batch.
"""

from benchmarks.claim import Claim, Setting, goal_of_ratio, random_ids, run_script, spread, table
from benchmarks.files import TASKS
from benchmarks.peers import start_sides
from edgept.bench.ratio import ratio_of_pairs

__all__ = ["measure"]

_TEXT = 32  # tokens


def measure(setting: Setting) -> Claim:
    """A B, B A and so on, on edgept."""
    effort, shape = setting.effort, setting.shapes[0]
    new_tokens = max(2, effort.new_tokens // 2)
    sides, _ = start_sides(["edgept"], setting.files(shape), setting.threads, setting.say)
    many: list[float] = []
    one: list[float] = []
    setting.say("batches of eight")
    with sides["edgept"] as side:
        side.call("load_tasks", TASKS)
        for number in range(-2, effort.rounds):
            rows = [random_ids(_TEXT, 99 * number + row + 999) for row in range(TASKS)]
            for prompts, series in ((TASKS, many), (1, one))[:: 1 if number % 2 else -1]:
                took = side.call("batch", rows, prompts, new_tokens)
                if number >= 0:
                    series.append(took)
    ratio = ratio_of_pairs(many, one)
    body = table(
        ("ms for the whole batch", ""),
        [
            (f"8 rows, {TASKS} prompts", spread(many)),
            ("8 rows, one prompt", spread(one)),
            ("ratio", f"{ratio.ratio:.3f} ({ratio.low:.3f}–{ratio.high:.3f}), {ratio.word}"),
        ],
    )
    about = (
        f"Eight rows of {_TEXT} tokens and {new_tokens} new ones on {shape}, {effort.rounds} pairs "
        f"in turning order, {setting.threads} threads. No peer gives each row a prompt of its own."
    )
    goal = goal_of_ratio("batch of 8 rows with 8 prompts over 8 rows with one", 1.02, many, one)
    return Claim("Mixed batch", about, body, [goal], raw={"many": many, "one": one})


if __name__ == "__main__":
    run_script(measure, __doc__)
