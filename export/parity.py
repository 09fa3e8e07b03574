"""Parity: the frozen PyTorch model against the bundle, under random prompts.

What is compared, at ragged lengths: prefill without a prompt, behind virtual tokens (whose keys and
values the runtime computes beforehand), with virtual tokens in the middle of a text, and behind
random initial keys and values (prefix tuning); decoding step by step over given tokens; greedy
decoding, in one mixed batch and alone.
"""

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import DynamicCache

from edgept.errors import ExportError
from edgept.prompt import Prompt
from edgept.runtime.content import Content, LoadedPrompt
from edgept.runtime.model import PERPLEXITY_WINDOW, Model

__all__ = [
    "TOLERANCE",
    "Parity",
    "Tally",
    "check_parity",
    "measure_parity",
    "reference_logits",
]

# Largest difference over largest logit. int8 is judged loosely, to find a wrong graph; int4 costs some
# models more than a wrong graph would, so it is measured and not judged.
TOLERANCE: dict[str, float | None] = {"fp32": 1e-4, "fp16": 2e-2, "int8": 0.1, "int4": None}

# PyTorch decodes slowly: large models are compared over fewer tokens.
_GREEDY_TOKENS, _GREEDY_TOKENS_LARGE = 64, 16
_LARGE_PARAMETERS = 30_000_000
_SEED = 20250704


@dataclass(frozen=True)
class Parity:
    """What a parity check measured.

    Attributes:
        reference: the PyTorch side.
        positions: positions whose logits were compared.
        max_abs: largest absolute difference of a logit.
        max_rel: that over the largest absolute logit of the reference, worst case of all.
        top1_agreement: share of positions whose most probable token is the same.
        greedy_equal: greedy tokens equal up to the first difference, over all rows.
        greedy_total: greedy tokens of the reference.
        greedy_diverged: rows that left the reference where it had a clear favourite, so that the
            difference is no tie.
        perplexity: "reference", "bundle" and "change_percent" on the user's text; None without one.
        tolerance: of max_rel; None where it is not judged.
        seconds: that the check took.
    """

    reference: str
    positions: int
    max_abs: float
    max_rel: float
    top1_agreement: float
    greedy_equal: int
    greedy_total: int
    greedy_diverged: int
    perplexity: dict[str, float] | None
    tolerance: float | None
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether the difference is finite and, where there is a tolerance, within it."""
        if self.tolerance is None:
            return math.isfinite(self.max_rel)
        return self.max_rel <= self.tolerance and self.greedy_diverged == 0

    def to_manifest(self) -> dict[str, Any]:
        """The fields as the manifest keeps them."""
        return {**asdict(self), "passed": self.passed}

    def __str__(self) -> str:
        text = (
            f"logits max abs {self.max_abs:.2g}, relative {self.max_rel:.2g} over {self.positions} "
            f"positions · top-1 {self.top1_agreement:.1%}"
        )
        if self.greedy_total:
            text += f" · greedy tokens {self.greedy_equal} of {self.greedy_total} equal"
        if self.perplexity is not None:
            text += (
                f" · perplexity {self.perplexity['reference']:.2f} → {self.perplexity['bundle']:.2f} "
                f"({self.perplexity['change_percent']:+.2f} %)"
            )
        return text


class Tally:
    """Collects differences over cases.

    Args:
        tolerance: of the relative difference; None where it is not judged.
    """

    def __init__(self, tolerance: float | None) -> None:
        self._started = time.perf_counter()
        self._tolerance = tolerance
        self.positions = self.agreeing = 0
        self.max_abs = self.max_rel = 0.0
        self.greedy_equal = self.greedy_total = self.greedy_diverged = 0

    def add(self, found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> None:
        """Count logits (positions, vocabulary) of a case."""
        difference = float(np.abs(found - expected).max())
        scale = float(np.abs(expected).max())
        # max() drops a NaN that comes second; this keeps it
        self.max_abs = difference if math.isnan(difference) else max(self.max_abs, difference)
        relative = difference / scale if scale else difference
        self.max_rel = relative if math.isnan(relative) else max(self.max_rel, relative)
        self.positions += len(expected)
        self.agreeing += int((found.argmax(-1) == expected.argmax(-1)).sum())

    def add_greedy(
        self, found: list[int], expected: list[int], scores: list[npt.NDArray[np.float32]]
    ) -> None:
        """Count greedy tokens of a row; scores are the reference's, (vocabulary,) a token."""
        pairs = enumerate(zip(found, expected, strict=False))
        first = next((step for step, (left, right) in pairs if left != right), None)
        self.greedy_total += len(expected)
        self.greedy_equal += min(len(found), len(expected)) if first is None else first
        if first is None:
            self.greedy_diverged += len(found) != len(expected)
            return
        gap = float(scores[first][expected[first]] - scores[first][found[first]])
        tie = (self._tolerance or 0.0) * float(np.abs(scores[first]).max())
        self.greedy_diverged += gap > tie

    def parity(self, reference: str, perplexity: dict[str, float] | None = None) -> Parity:
        """The report so far; reference names the PyTorch side."""
        return Parity(
            reference=reference,
            positions=self.positions,
            max_abs=self.max_abs,
            max_rel=self.max_rel,
            top1_agreement=self.agreeing / self.positions,
            greedy_equal=self.greedy_equal,
            greedy_total=self.greedy_total,
            greedy_diverged=self.greedy_diverged,
            perplexity=perplexity,
            tolerance=self._tolerance,
            seconds=round(time.perf_counter() - self._started, 2),
        )


def check_parity(
    reference: Any, model: Model, *, precision: str, verify_text: str | None = None
) -> Parity:
    """Compare under random prompts, and judge.

    Args:
        reference: the frozen transformers model in float32.
        model: the bundle, loaded.
        precision: of the bundle, which decides the tolerance.
        verify_text: a text to measure perplexity on, before and after.

    Raises:
        ExportError: the difference is above the tolerance, or not a number.
    """
    parity = measure_parity(reference, model, precision=precision, verify_text=verify_text)
    if not parity.passed:
        limit = "finite" if parity.tolerance is None else f"at most {parity.tolerance:g}"
        found = f"relative logit difference {parity.max_rel:.3g}, expected {limit}"
        if parity.greedy_diverged:
            found += f"; {parity.greedy_diverged} greedy rows left PyTorch's, expected none"
        raise ExportError(
            f"the bundle does not compute what the PyTorch model computes: {found} ({parity}). Please "
            "report this model's config.json; --no-verify exports it regardless."
        )
    return parity


def measure_parity(
    reference: Any, model: Model, *, precision: str, verify_text: str | None = None
) -> Parity:
    """Compare under random prompts; arguments as `check_parity`, which also judges."""
    random = np.random.default_rng(_SEED)
    tally = Tally(TOLERANCE[precision])
    prompts = _random_prompts(reference, model, random)
    for prompt, length in prompts:
        ids = random.integers(0, model.manifest.vocab_size, length)
        expected = reference_logits(reference, ids, prompt)
        tally.add(model.logits(ids.tolist(), prompt=prompt), expected)
        tally.add(_stepwise(model, ids, prompt), expected)
    _compare_inside(reference, model, random, tally, prompts)
    _compare_greedy(reference, model, random, tally, prompts)
    perplexity = None
    if verify_text is not None:
        before, after = _perplexity(reference, model, verify_text), model.perplexity(verify_text)
        change = (after / before - 1) * 100
        perplexity = {"reference": before, "bundle": after, "change_percent": change}
    return tally.parity(
        f"{type(reference).__name__} in float32, PyTorch {torch.__version__}", perplexity
    )


def reference_logits(
    reference: Any, ids: npt.NDArray[np.int64], prompt: LoadedPrompt | None
) -> npt.NDArray[np.float32]:
    """PyTorch's logits (tokens, vocabulary) of ids behind a prompt, put in as peft does."""
    with torch.no_grad():
        tokens = torch.from_numpy(np.asarray(ids, np.int64))[None]
        logits: npt.NDArray[np.float32] = (
            _forward(reference, tokens, prompt).logits[0, -len(ids) :].float().numpy()
        )
        return logits


def _forward(reference: Any, tokens: torch.Tensor, prompt: LoadedPrompt | None) -> Any:
    if prompt is None:
        return reference(input_ids=tokens, use_cache=True)
    if prompt.rows is None:
        past = torch.from_numpy(np.array(prompt.kv, np.float32))[:, None]
        cache = DynamicCache(list(zip(past[::2], past[1::2], strict=True)))
        mask = torch.ones(1, past.shape[3] + tokens.shape[1], dtype=torch.long)
        return reference(
            input_ids=tokens, attention_mask=mask, past_key_values=cache, use_cache=True
        )
    rows = torch.from_numpy(np.array(prompt.rows, np.float32))[None]
    embeds = torch.cat([rows, reference.get_input_embeddings()(tokens)], dim=1)
    return reference(inputs_embeds=embeds, use_cache=True)


def _random_prompts(
    reference: Any, model: Model, random: np.random.Generator
) -> list[tuple[LoadedPrompt | None, int]]:
    """Prompts of several lengths, each with the length of the text behind it."""
    manifest, room = model.manifest, model.max_length
    kv = manifest.kv
    if kv is None:
        raise AssertionError("decoder-only bundles have a cache")
    spread = float(reference.get_input_embeddings().weight.detach().float().std())
    chosen: list[tuple[LoadedPrompt | None, int]] = [(None, min(17, room))]
    for count, length in ((1, 5), (8, 1), (20, 33)):
        count = min(count, manifest.max_virtual_tokens, max(1, room // 3))
        rows = (random.normal(size=(count, manifest.hidden_size)) * spread).astype(np.float32)
        prompt = model.load_prompt(Prompt({"prompt_embeds": rows}, f"random-{count}"))
        chosen.append((prompt, min(length, room - count)))
    count = min(6, manifest.max_virtual_tokens, max(1, room // 3))
    shape = (kv.num_layers, 2, kv.num_kv_heads, count, kv.head_dim)
    past = random.normal(size=shape).astype(np.float32)
    prompt = model.load_prompt(Prompt({"prompt_kv": past}, "random-prefix"))
    chosen.append((prompt, min(9, room - count)))
    return chosen


def _stepwise(
    model: Model, ids: npt.NDArray[np.int64], prompt: LoadedPrompt | None
) -> npt.NDArray[np.float32]:
    """The bundle's logits (tokens, vocabulary), a token at a time on one cache, as decoding runs."""
    decoder = model._decoder
    request = model._compose(ids[:1].tolist(), prompt)
    cache = decoder.open(request, request.length + len(ids))
    logits = [decoder.prefill(cache, request)[0, -1]]
    logits += [decoder.step(cache, [int(token)])[0, -1].copy() for token in ids[1:]]
    return np.stack(logits)


def _compare_inside(
    reference: Any,
    model: Model,
    random: np.random.Generator,
    tally: Tally,
    prompts: list[tuple[LoadedPrompt | None, int]],
) -> None:
    """Two prompts inside one text: [first, text, second, text]."""
    first, second = [item for item, _ in prompts if item is not None and item.rows is not None][:2]
    ids = random.integers(0, model.manifest.vocab_size, 12)
    left, right = ids[:5], ids[5:]
    if first.num_virtual_tokens + second.num_virtual_tokens + len(ids) > model.max_length:
        return
    with torch.no_grad():
        embed = reference.get_input_embeddings()
        pieces = [first.rows, left, second.rows, right]
        embeds = torch.cat(
            [
                torch.from_numpy(np.array(piece, np.float32))
                if index % 2 == 0
                else embed(torch.from_numpy(piece))
                for index, piece in enumerate(pieces)
                if piece is not None
            ]
        )
        expected = reference(inputs_embeds=embeds[None]).logits[0].float().numpy()
    content: Content = [left.tolist(), second, right.tolist()]
    found = model.logits(content, prompt=first)
    tally.add(found, expected[first.num_virtual_tokens :])


def _compare_greedy(
    reference: Any,
    model: Model,
    random: np.random.Generator,
    tally: Tally,
    prompts: list[tuple[LoadedPrompt | None, int]],
) -> None:
    """Greedy tokens of ragged rows under different prompts, alone and in one batch."""
    longest = max(length + (item.num_virtual_tokens if item else 0) for item, length in prompts)
    is_large = sum(item.numel() for item in reference.parameters()) > _LARGE_PARAMETERS
    wanted = _GREEDY_TOKENS_LARGE if is_large else _GREEDY_TOKENS
    count = max(1, min(wanted, model.max_length - longest))
    requests = [
        (random.integers(0, model.manifest.vocab_size, length).tolist(), prompt)
        for prompt, length in prompts
    ]
    batch = model.generate_batch(requests, max_new_tokens=count)
    for (ids, prompt), row in zip(requests, batch, strict=True):
        expected, scores = _greedy(reference, ids, prompt, count, model.manifest.eos_token_ids)
        alone = model.generate(ids, prompt=prompt, max_new_tokens=count)
        for found in (alone.token_ids, row.token_ids):
            tally.add_greedy(found, expected, scores)


def _greedy(
    reference: Any, ids: list[int], prompt: LoadedPrompt | None, count: int, eos: list[int]
) -> tuple[list[int], list[npt.NDArray[np.float32]]]:
    chosen: list[int] = []
    scores: list[npt.NDArray[np.float32]] = []
    with torch.no_grad():
        output = _forward(reference, torch.tensor([ids]), prompt)
        while True:
            scores.append(output.logits[0, -1].float().numpy())
            chosen.append(int(scores[-1].argmax()))
            if len(chosen) == count or chosen[-1] in eos:
                return chosen, scores
            output = reference(
                input_ids=torch.tensor([[chosen[-1]]]), past_key_values=output.past_key_values
            )


def _perplexity(reference: Any, model: Model, text: str) -> float:
    """PyTorch's perplexity over the same windows as `Model.perplexity`."""
    ids = model._compose(text, None).ids
    losses = []
    with torch.no_grad():
        window = min(model.max_length, PERPLEXITY_WINDOW)
        for begin in range(0, len(ids) - 1, window):
            chunk = torch.from_numpy(ids[begin : begin + window])
            if len(chunk) < 2:
                break
            logits = reference(input_ids=chunk[None]).logits[0, :-1].double()
            losses.append(torch.nn.functional.cross_entropy(logits, chunk[1:], reduction="none"))
    return math.exp(float(torch.cat(losses).mean()))
