"""How a bundle stores its weights: float, or integers with a scale for each block."""

from dataclasses import dataclass

from edgept.errors import UsageError
from edgept.manifest import SEQ2SEQ_TASK

__all__ = ["BLOCK_SIZES", "HEAD_PRECISIONS", "PRECISIONS", "WeightFormat"]

BLOCK_SIZES = (16, 32, 64, 128, 256)

# By target, the usual one first.
PRECISIONS = {
    "cpu": ("int4", "int8", "int8-dynamic", "fp32"),
    "cuda": ("fp16", "int4", "int8", "fp32"),
    "jetson": ("fp16", "int4", "int8", "fp32"),
}
# Of a language model's head, where the rest is int4.
HEAD_PRECISIONS = ("int8",)


@dataclass(frozen=True)
class WeightFormat:
    """What `edgept export` makes of the weights.

    Integers are symmetric, one scale for each block of a matrix's input dimension (onnxruntime's
    MatMulNBits). int8-dynamic has one scale for each column instead, and quantises what comes in with
    one scale a run: coarser, and quicker where a run is long, since it multiplies integers only.

    Attributes:
        precision: fp32, fp16, int8, int8-dynamic or int4.
        target: cpu, cuda or jetson.
        block_size: weights that share a scale, where they are integers.
        exclude_modules: globs of the modules that keep float weights, where others are integers.
        head_precision: int8 for a language model's head beside weights of int4; None is as the rest.
    """

    precision: str
    target: str
    block_size: int = 32
    exclude_modules: tuple[str, ...] = ()
    head_precision: str | None = None

    @property
    def bits(self) -> int | None:
        """4 or 8; None for floats."""
        return int(self.precision[3]) if self.precision.startswith("int") else None

    @property
    def dynamic(self) -> bool:
        """Whether what comes in is quantised by the graph, not inside the product."""
        return self.precision == "int8-dynamic"

    @property
    def accuracy_level(self) -> int:
        """Of MatMulNBits: 4 computes in int8, 0 leaves the choice to the kernel."""
        return 4 if self.target == "cpu" else 0

    @property
    def half(self) -> bool:
        """Whether what is float in the graph is float16."""
        return self.target != "cpu" and self.precision != "fp32"

    def check_width(self, hidden_size: int) -> None:
        """Refuse blocks that do not divide a model's width: onnxruntime looks up embeddings in whole ones.

        Raises:
            UsageError: they do not.
        """
        if self.bits is not None and hidden_size % self.block_size:
            fitting = [str(size) for size in BLOCK_SIZES if hidden_size % size == 0]
            raise UsageError(
                f"blocks of {self.block_size} weights do not divide the model's width, {hidden_size}. "
                + (
                    f"Choose --block-size {' or '.join(fitting)}, or --precision fp32."
                    if fitting
                    else "No size of blocks does: choose --precision fp32."
                )
            )

    def check_exceptions(self, task: str) -> None:
        """Refuse exceptions from the precision where there is nothing to except from.

        Args:
            task: as transformers names it.

        Raises:
            UsageError: the weights are floats, the head is no language model's, or no other precision.
        """
        if self.exclude_modules and self.bits is None:
            raise UsageError(
                f"--exclude-modules keeps float weights where others are integers; in {self.precision} all "
                "are floats. Leave it out, or choose --precision int8 or int4."
            )
        if self.head_precision is None:
            return
        if self.head_precision not in HEAD_PRECISIONS:
            raise UsageError(
                f"unknown precision of a head {self.head_precision!r}; expected one of "
                f"{', '.join(HEAD_PRECISIONS)}."
            )
        if task not in ("text-generation", SEQ2SEQ_TASK):
            raise UsageError(
                f"--head-precision is for a language model's head; that of {task} is an input of the graph, "
                "and float in every precision. Leave it out."
            )
        if self.precision != "int4":
            raise UsageError(
                f"--head-precision {self.head_precision} is for a model whose other weights are int4; this "
                f"one is exported in {self.precision}. Leave it out, or choose --precision int4."
            )
