"""The phases that are measured apart: their names in a report, and where each comes from."""

from collections.abc import Mapping, Sequence

from edgept.latency import Latency

__all__ = ["LOOP", "TITLES", "Samples", "of_latencies", "of_latency", "of_pictures"]

Samples = dict[str, list[float]]
"""Milliseconds by phase."""

# In the order in which a request meets them. A swap copies a prompt's keys and values; one to a recent
# prompt finds a cache buffer that still begins with them.
TITLES: Mapping[str, str] = {
    "process_start": "process to first token",
    "session_load": "session load",
    "prompt_cold": "prompt file, cold",
    "swap": "swap",
    "swap_recent": "swap, recent",
    "tokenise": "tokenise",
    "preprocess": "preprocess",
    "run": "run",
    "prefill": "prefill",
    "queue": "queue",
    "ttft": "time to first token",
    "tpot": "time per output token",
    "end_to_end": "end to end",
}
# Those that every request has; the others happen once for a process, a model, a prompt.
LOOP = (
    *("swap", "tokenise", "preprocess", "run", "prefill"),
    *("queue", "ttft", "tpot", "end_to_end"),
)


def of_latency(latency: Latency) -> Samples:
    """The phases of one request, without end to end, which the caller's clock measures."""
    samples = {
        "swap": [latency.swap_ms],
        "tokenise": [latency.tokenize_ms],
        "prefill": [latency.prefill_ms],
    }
    if latency.ttft_ms is not None:
        samples["ttft"] = [latency.ttft_ms]
    if latency.tpot_ms is not None:
        samples["tpot"] = [latency.tpot_ms]
    return samples


def of_latencies(latencies: Sequence[Latency]) -> Samples:
    """The phases of a batch: swap, prefill and first token of every row; the rest once for all."""
    rows = [of_latency(latency) for latency in latencies]
    samples: Samples = {
        name: [row[name][0] for row in rows if name in row] for name in ("swap", "prefill", "ttft")
    }
    samples["tokenise"] = rows[0]["tokenise"]
    paces = [row["tpot"][0] for row in rows if "tpot" in row]
    if paces:
        samples["tpot"] = [max(paces)]  # the rows step together; one that ends early has fewer
    return samples


def of_pictures(latencies: Sequence[Latency]) -> Samples:
    """The phases of pictures that were seen together, each once for all."""
    first = latencies[0]
    return {
        "swap": [first.swap_ms],
        "preprocess": [first.preprocess_ms or 0.0],
        "run": [first.prefill_ms],
    }
