"""Train the demo's language model from nothing but the generated corpus.

    python -m edgept.demo.train_model --out model --steps 5000

A row of training text is one desk's log: exchanges one after another, all of them in one mode,
until the row is full. So a reply's mode can be read from the exchanges before it and from nothing
else, and the first of a row is anybody's guess. A tuned prompt stands where those exchanges were.
"""

import argparse
import json
import math
import random
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from edgept.demo.corpus import END, MODES, QUESTION, REPLY, make_question, make_reply, wrap

ROW_TOKENS = 192
BATCH_ROWS = 16
# Sentences of customers are mostly chance; what the model is for is the replies.
QUESTION_WEIGHT = 0.1
CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'user' %}" + QUESTION + "{{ m['content'] }}"
    "{% elif m['role'] == 'assistant' %}" + REPLY + "{{ m['content'] }}" + END + "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}" + REPLY + "{% endif %}"
)


def train_tokenizer(seed: int, *, vocab_size: int = 2048, exchanges: int = 30_000) -> Tokenizer:
    """Byte-level BPE on the corpus; every digit is a token, so that a number is copied by digits."""
    rng = random.Random(seed)
    texts = []
    for _ in range(exchanges):
        question = make_question(rng)
        texts += [question.text, make_reply(rng, question, rng.choice(MODES))]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END, QUESTION, REPLY],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        # Japanese has no spaces: without a limit whole phrases of the templates become tokens.
        max_token_length=12,
        min_frequency=5,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def make_model(vocab_size: int, seed: int) -> LlamaForCausalLM:
    """A Llama of 2.7 million parameters, its output head tied to the embedding."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=6,
            num_attention_heads=6,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=0,
        )
    )


def make_batch(
    tokenizer: Tokenizer, rng: random.Random, rows: int = BATCH_ROWS, *, held_out: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of training text.

    Returns:
        Token ids, int64 (rows, ROW_TOKENS + 1), and the weight of each in the loss, float32 of the
        same shape.
    """
    all_ids, all_weights = [], []
    for _ in range(rows):
        mode = rng.choice(MODES)
        ids: list[int] = []
        weights: list[float] = []
        while len(ids) <= ROW_TOKENS:
            question = make_question(rng, held_out=held_out)
            asked = tokenizer.encode(wrap(question.text)).ids
            replied = tokenizer.encode(make_reply(rng, question, mode) + END).ids
            ids += asked + replied
            weights += [QUESTION_WEIGHT] * len(asked) + [1.0] * len(replied)
        all_ids.append(ids[: ROW_TOKENS + 1])
        all_weights.append(weights[: ROW_TOKENS + 1])
    return torch.tensor(all_ids), torch.tensor(all_weights)


def learning_rate(step: int, steps: int, peak: float, warmup: int = 100) -> float:
    """Linear warm-up, then half a cosine down to a fiftieth of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, out: Path) -> None:
    """Write the model in float16, and its tokenizer, as transformers reads them."""
    half = make_model(model.config.vocab_size, seed=0)
    torch.nn.Module.to(half, torch.float16)
    half.load_state_dict(model.state_dict())
    half.save_pretrained(out)
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=END,
        additional_special_tokens=[QUESTION, REPLY],
        chat_template=CHAT_TEMPLATE,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(out)


def main() -> None:
    """Train, or go on from the last checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("model"))
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoint.pt"))
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=int, default=250, help="steps between checkpoints")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--compile", action="store_true", help="twice as quick; needs a C++ compiler"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    tokenizer = train_tokenizer(args.seed)
    model = make_model(tokenizer.get_vocab_size(), args.seed)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98), fused=True)
    start = 0
    if args.checkpoint.exists():
        state: dict[str, Any] = torch.load(args.checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    # On a CPU the backward pass of the fused attention takes three times that of plain matmuls.
    model.set_attn_implementation("eager")
    forward = torch.compile(model) if args.compile else model
    valid_ids, valid_weights = make_batch(tokenizer, random.Random("valid"), 32, held_out=True)

    def loss_of(ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits = forward(input_ids=ids[:, :-1], use_cache=False).logits
        # logits: (rows, ROW_TOKENS, vocabulary)
        losses = functional.cross_entropy(
            logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
        )
        wanted = weights[:, 1:].flatten()
        return (losses * wanted).sum() / wanted.sum()

    began, total = time.perf_counter(), 0.0
    for step in range(start, args.steps):
        # Seeded by the step, so that a resumed run sees what an uninterrupted one would.
        ids, weights = make_batch(tokenizer, random.Random(f"{args.seed} {step}"))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.lr)
        loss = loss_of(ids, weights)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        total += loss.item()
        if (step + 1) % 50 == 0:
            elapsed = time.perf_counter() - began
            line: dict[str, Any] = {"step": step + 1, "loss": round(total / 50, 4)}
            line["tokens_per_s"] = round((step + 1 - start) * ids.numel() / elapsed)
            total = 0.0
            if (step + 1) % args.every == 0 or step + 1 == args.steps:
                with torch.no_grad():
                    held_out = [
                        loss_of(i, w).item()
                        for i, w in zip(valid_ids.chunk(2), valid_weights.chunk(2), strict=True)
                    ]
                line["held_out_loss"] = round(sum(held_out) / len(held_out), 4)
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                torch.save(state | {"step": step + 1}, args.checkpoint.with_suffix(".new"))
                args.checkpoint.with_suffix(".new").replace(args.checkpoint)
                save(model, tokenizer, args.out)
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
