"""The run in one picture: training loss, validation loss and the prompt's gradient, as a PNG."""

import io
from typing import Any

__all__ = ["draw_curve"]

# By the kind of data, where it is not what text has.
_UNITS = {"classes": "nats per picture", "masks": "nats per pixel", "boxes": "of classes and boxes"}


def draw_curve(record: dict[str, Any]) -> bytes:
    """Draw a run.

    Args:
        record: of the run, as `edgept tune` writes it.

    Returns:
        The PNG's bytes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Without pyplot, whose state is the whole program's.
    figure: Any = Figure(figsize=(7, 5), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    losses = record["losses"]
    steps = range(1, len(losses) + 1)
    upper.plot(steps, losses, color="0.75", linewidth=0.8, label="training, each step")
    validations = record["validations"]
    if validations:
        upper.plot(
            [found["step"] for found in validations],
            [found["loss"] for found in validations],
            color="C0",
            marker=".",
            label="validation",
        )
        if record["without_prompt"] is not None:
            plain = record["without_prompt"]["loss"]
            upper.axhline(
                plain, color="C3", linestyle="--", linewidth=1, label="without the prompt"
            )
        upper.axvline(record["best_step"], color="C0", linestyle=":", linewidth=1, label="kept")
    unit = _UNITS.get(
        record["rows"]["kind"], "nats per row" if record["labels"] else "nats per token"
    )
    upper.set_ylabel(f"loss, {unit}")
    upper.set_title(f"{record['name']}: {record['settings']['method']} on {record['model']}")
    upper.legend(loc="upper right", fontsize="small")
    lower.plot(steps, record["gradient_norms"], color="C1", linewidth=0.8)
    lower.set_ylabel("gradient norm")
    lower.set_xlabel("step")
    if all(norm > 0 for norm in record["gradient_norms"]) and losses:
        lower.set_yscale("log")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    return picture.getvalue()
