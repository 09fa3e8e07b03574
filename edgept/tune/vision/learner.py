"""A task on pictures, learnt: a visual prompt and a head under the frozen model."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from edgept.tune.evaluate import Validation
from edgept.tune.job import Job
from edgept.tune.vision.losses import detection_loss, patch_detection_loss, segmentation_loss
from edgept.tune.vision.rows import IGNORED
from edgept.tune.vision.store import Store, Target
from edgept.tune.vision.validation import Outputs, finds_by_patches, masks_of, score_pictures

__all__ = ["PictureLearner", "read_features"]

_ROOM_BYTES = 1 << 30  # of features that are computed once


@dataclass(frozen=True, eq=False)
class _Batch:
    """Pictures of a forward pass.

    Attributes:
        pixels: (pictures, 3, height, width); or, computed before, features (pictures, positions, head_size).
        targets: what is to be learnt of each.
        is_read: whether `pixels` are features.
    """

    pixels: torch.Tensor
    targets: list[Target]
    is_read: bool


class PictureLearner:
    """See `Learner`.

    A head alone reads features that do not change, so they are computed once where there is room for them.

    Args:
        job: what is to be trained; its examples are stores.
        module: a VisualPrompt or a ContextPrompt.
    """

    unit = "pictures"

    def __init__(self, job: Job, module: Any) -> None:
        self.job, self.module = job, module
        self._image = job.backbone.vision.geometry
        self._features: dict[int, torch.Tensor] = {}  # of a store, by its id
        if module.prompt is None and not job.settings.flip:
            self._compute_once([job.examples, *([job.held_out] if job.held_out else [])])

    def make_batch(self, rows: Sequence[int], begin: int) -> _Batch:
        """Pictures, some of them mirrored where the settings say so."""
        batch = self._batch(self.job.examples, rows)
        if not self.job.settings.flip:
            return batch
        generator = torch.Generator().manual_seed(self.job.settings.seed * 1_000_003 + begin)
        chosen = torch.rand(len(rows), generator=generator) < 0.5  # (pictures,)
        pixels, targets = batch.pixels.clone(), [*batch.targets]
        for index in chosen.nonzero()[:, 0].tolist():
            padding = self._padding(rows[index])
            pixels[index] = _mirrored(pixels[index], padding)
            targets[index] = _mirrored_target(targets[index], padding, self._image.width)
        return _Batch(pixels, targets, is_read=False)

    def _padding(self, row: int) -> int:
        """Columns of the input on the right that show none of a picture."""
        size = self.job.examples.sizes[row]
        shown = size[0] / self.job.examples.frame(size)[0]
        columns: int = round(self._image.width * (1 - shown))
        return columns

    def weigh(self, batch: _Batch) -> int:
        """Pictures, or the pixels that are learnt from: each counts the same, however they are divided."""
        if self.job.picture_task == "image-segmentation":
            return max(1, int((masks_of(batch.targets) != IGNORED).sum()))
        return len(batch.targets)

    def count(self, batch: _Batch) -> int:
        """Pictures."""
        return len(batch.targets)

    def loss(self, batch: _Batch) -> torch.Tensor:
        """Of the picture's class, of each pixel's, or of the objects found; see losses.py."""
        features = self._read(batch)
        logits = self.module.make_head()(features)  # (pictures, positions, labels)
        if self.job.picture_task == "image-classification":
            return functional.cross_entropy(logits[:, 0], self._classes(batch))
        if self.job.picture_task == "image-segmentation":
            masks = masks_of(batch.targets).to(logits.device)
            return segmentation_loss(logits, self._image.grid, masks, self._image.sides)
        loss = patch_detection_loss if finds_by_patches(self.job) else detection_loss
        return loss(logits, self.module.boxes(features), batch.targets)

    def validate(self, step: int) -> Validation:
        """Loss over the held-out pictures, and the task's metric."""
        with torch.no_grad():
            return self.score(step, self.module.make_head())

    def score(self, step: int, head: Callable[[torch.Tensor], torch.Tensor]) -> Validation:
        """The same under any head."""
        with torch.no_grad():
            return Validation(step, *score_pictures(self.job, self._outputs(head)))

    def export(self) -> list[dict[str, Any]]:
        """Prompt, head and box layer."""
        return [self.module.tensors()]

    def _outputs(self, head: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[Outputs]:
        """Of all held-out pictures."""
        size = self.job.settings.batch_size
        for begin in range(0, len(self.job.held_out), size):
            rows = [*range(begin, min(begin + size, len(self.job.held_out)))]
            batch = self._batch(self.job.held_out, rows)
            features = self._read(batch)
            boxes = self.module.boxes(features) if self.module.finds_boxes else None
            yield rows, batch.targets, head(features), boxes

    def _batch(self, store: Store, rows: Sequence[int]) -> _Batch:
        entries = [store[row] for row in rows]
        targets = [target for _, target in entries]
        known = self._features.get(id(store))
        if known is not None:
            return _Batch(known[list(rows)], targets, is_read=True)
        pixels = torch.stack([pixels for pixels, _ in entries]).to(self.job.backbone.device)
        return _Batch(pixels, targets, is_read=False)

    def _read(self, batch: _Batch) -> torch.Tensor:
        """What the head reads of each picture, (pictures, positions, head_size)."""
        if batch.is_read:
            return batch.pixels
        return read_features(self.job, batch.pixels, self.module.rows())

    def _classes(self, batch: _Batch) -> torch.Tensor:
        labels = [target.label for target in batch.targets]
        return torch.tensor(labels, device=self.job.backbone.device)

    def _compute_once(self, stores: Sequence[Store]) -> None:
        """Features of all pictures, where there is room."""
        found: dict[int, torch.Tensor] = {}
        for store in stores:
            parts = []
            for begin in range(0, len(store), self.job.settings.batch_size):
                rows = range(begin, min(begin + self.job.settings.batch_size, len(store)))
                with torch.no_grad():
                    parts.append(self._read(self._batch(store, rows)))
                if not begin and parts[0][0].nbytes * sum(map(len, stores)) > _ROOM_BYTES:
                    return
            found[id(store)] = torch.cat(parts)
        self._features = found


def read_features(job: Job, pixels: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    """What the task's head reads of each picture, float32 (pictures, positions, head_size).

    Args:
        job: with the frozen model and the task.
        pixels: (pictures, 3, height, width).
        rows: of the prompt, (layers or 1, num_virtual_tokens, hidden); None of a head alone.

    Returns:
        One position, the picture's own, to classify; the patches to segment; the virtual tokens to detect. Where
        the patches find things themselves, these, with their boxes as the last four columns.
    """
    vision = job.backbone.vision
    dtype = next(vision.model.parameters()).dtype
    if rows is None:
        rows = torch.zeros(1, 0, vision.hidden_size, device=pixels.device)
    count = rows.shape[1]
    table = rows[:, None].to(dtype)  # (layers or 1, 1, virtual tokens, hidden)
    if finds_by_patches(job):
        own = torch.zeros(1, vision.head_size, dtype=dtype, device=pixels.device)
        none = torch.zeros(4, vision.head_size, dtype=dtype, device=pixels.device)
        _, boxes, features = vision(pixels.to(dtype), table, own, own[:, 0], none, none[:, 0])
        return torch.cat([features, boxes], dim=-1)[:, 1 + count :].float()
    # (pictures, 1 + virtual tokens + patches, head_size)
    features = vision.features(pixels.to(dtype), table).float()
    places = {
        "image-classification": slice(0, 1),
        "image-segmentation": slice(1 + count, None),
        "object-detection": slice(1, 1 + count),
    }
    chosen: torch.Tensor = features[:, places[job.task]]
    return chosen


def _mirrored(pixels: torch.Tensor, padding: int) -> torch.Tensor:
    """Pixels (…, width) mirrored, those of the padding still on the right."""
    return pixels.flip(-1).roll(-padding, -1)


def _mirrored_target(target: Target, padding: int, width: int) -> Target:
    boxes = target.boxes.clone()
    boxes[:, 0] = 1 - padding / width - boxes[:, 0]
    mask = None if target.mask is None else _mirrored(target.mask, padding)
    return Target(target.label, target.classes, boxes, mask)
