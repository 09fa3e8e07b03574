"""The phases that are measured apart: their names in a report, and what people call them."""

from collections.abc import Mapping

__all__ = ["LOOP", "TITLES", "Samples"]

Samples = dict[str, list[float]]
"""Milliseconds by phase."""

# In the order in which a request meets them. A swap copies a prompt's keys and values; one to a recent
# prompt finds a cache buffer that still begins with them.
TITLES: Mapping[str, str] = {
    "process_start": "process to first token",
    "session_load": "session load",
    "prompt_cold": "prompt file, cold",
    "decode": "decode",
    "preprocess": "preprocess",
    "swap": "swap",
    "swap_recent": "swap, recent",
    "tokenise": "tokenise",
    "run": "run",
    "read_out": "read-out",
    "prefill": "prefill",
    "queue": "queue",
    "ttft": "time to first token",
    "tpot": "time per output token",
    "end_to_end": "end to end",
}
# Those that every request has; the others happen once for a process, a model, a prompt.
LOOP = (
    *("decode", "preprocess", "swap", "tokenise", "run", "read_out", "prefill"),
    *("queue", "ttft", "tpot", "end_to_end"),
)
