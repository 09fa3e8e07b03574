"""peft on PyTorch: the float32 weights that the bundle was made from, or bfloat16."""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import peft
import torch
from transformers import AutoModelForCausalLM

from benchmarks.files import Files
from benchmarks.runtimes import Answer

__all__ = ["prepare", "start"]


def prepare(files: Files) -> None:
    files.make_model()


def start(files: Files, threads: int, kind: str) -> Any:
    return _Peft(files, threads, kind)


class _Peft:
    """`generate` of a peft model, timed by a streamer."""

    def __init__(self, files: Files, threads: int, kind: str) -> None:
        torch.set_num_threads(threads)
        begin = time.perf_counter()
        base: Any = AutoModelForCausalLM.from_pretrained(files.model, dtype=getattr(torch, kind))
        # the first task: a peft model has always one
        self._model: Any = peft.PeftModel.from_pretrained(
            base, str(files.peft[0]), adapter_name=files.peft[0].name
        )
        self._model.eval()
        self.load_ms = (time.perf_counter() - begin) * 1e3
        self._files = files
        self.weight_bytes = sum(
            value.numel() * value.element_size() for value in base.state_dict().values()
        )
        if base.config.tie_word_embeddings:  # listed twice, held once
            head = base.get_output_embeddings().weight
            self.weight_bytes -= head.numel() * head.element_size()

    def load_tasks(self, count: int) -> None:
        for path in self._files.peft[1:count]:
            self._model.load_adapter(str(path), path.name)

    def ask(self, ids: Sequence[int], task: int | None, new_tokens: int) -> Answer:
        tokens = torch.tensor([list(ids)])  # (1, tokens)
        begin = time.perf_counter()
        if task is not None:
            self._model.set_adapter(self._files.peft[task].name)
        swapped = time.perf_counter()
        clock = _Clock()
        with (
            torch.inference_mode(),
            self._model.disable_adapter() if task is None else nullcontext(),
        ):
            self._model.generate(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=new_tokens,
                do_sample=False,
                streamer=clock,
            )
        return Answer.timed(begin, swapped, clock.times[0], clock.times[-1], clock.token_ids)

    def cold(self, task: int) -> float:
        path = self._files.peft[task]
        begin = time.perf_counter()
        self._model.load_adapter(str(path), "cold")
        self._model.set_adapter("cold")
        milliseconds = (time.perf_counter() - begin) * 1e3
        self._model.set_adapter(self._files.peft[0].name)
        self._model.delete_adapter("cold")
        return milliseconds


class _Clock:
    """A transformers streamer: put gets the input once, and then every token."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.token_ids: list[int] = []
        self._seen_input = False

    def put(self, value: Any) -> None:
        if self._seen_input:
            self.times.append(time.perf_counter())
            self.token_ids.append(int(value.reshape(-1)[0]))
        self._seen_input = True

    def end(self) -> None:
        pass
