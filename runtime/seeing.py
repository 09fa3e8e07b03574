"""The calls on a model that looks at a picture in one forward pass: classify, segment, detect, embed."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from edgept.errors import UsageError
from edgept.runtime.calls import refuse
from edgept.runtime.content import LoadedPrompt, check_prompt
from edgept.runtime.detector import Detections, check_threshold, to_detections
from edgept.runtime.embedder import Embedding, to_image_embedding
from edgept.runtime.image_classifier import ImageClassification, to_image_classification
from edgept.runtime.segmenter import Segmentation, to_segmentation
from edgept.runtime.sights import CLASSIFIES, DETECTS, EMBEDS, SEGMENTS, Sight, check_together
from edgept.runtime.vision import Seen, Vision

if TYPE_CHECKING:
    from edgept.manifest import ImageGeometry, Manifest
    from edgept.pictures import Picture
    from edgept.runtime.forward import Forward
    from edgept.runtime.generator import Generator
    from edgept.runtime.seq2seq_generator import Seq2SeqGenerator

__all__ = ["SeeingModel", "Sighting"]

_DOES = {CLASSIFIES: "classify_image", SEGMENTS: "segment", DETECTS: "detect"}
_THRESHOLD = 0.5

_T = TypeVar("_T")

Look: TypeAlias = "tuple[Picture, LoadedPrompt | None]"
"""A picture and the prompt that it is seen under."""
Sighting: TypeAlias = ImageClassification | Segmentation | Detections | Embedding
"""What is found in a picture, by the prompt's task."""


class SeeingModel:
    """What `Model` offers on bundles of image models.

    A picture is a path, the bytes of a file, uint8 (height, width, 3) or Pillow's own. What a prompt is
    for stands in its file, so one bundle classifies, segments and detects.
    """

    manifest: "Manifest"
    load_ms: float
    _runner: "Forward | Generator | Seq2SeqGenerator | Vision"

    def see(
        self,
        picture: "Picture",
        *,
        prompt: LoadedPrompt | None = None,
        threshold: float = _THRESHOLD,
    ) -> Sighting:
        """Do what the prompt is for: classify, segment or detect.

        Args:
            picture: to look at.
            prompt: None is the plain model, which classifies where it has a head of its own, and else
                gives the picture's vector.
            threshold: least score of a detection; other tasks have none.

        Raises:
            UsageError: there is no such picture, or nothing says what the classes are.
            InvalidFileError: the picture is too large, broken, or in no form that is read.
        """
        return self._see([(picture, prompt)], "see", threshold)[0]

    def see_batch(
        self, requests: Iterable[Look], *, threshold: float = _THRESHOLD
    ) -> list[Sighting]:
        """`see` for many pictures under prompts and tasks of their own; requests are (picture, prompt) pairs.

        Those whose prompts have equally many layers and virtual tokens run together, whatever they are
        for; of two detectors, those with the same layer for boxes.

        Returns:
            One result a request, in their order, each as it is alone.

        Raises:
            UsageError, InvalidFileError: as `see`, of the first picture that cannot be read; nothing is
                returned of the others. Where some may be broken, ask for each alone.
        """
        return self._see(requests, "see_batch", threshold)

    def classify_image(
        self, picture: "Picture", *, prompt: LoadedPrompt | None = None
    ) -> ImageClassification:
        """Say which class a picture is of.

        Args:
            picture: as in `see`.
            prompt: for image classification; None is the plain model with its own head.

        Raises:
            UsageError: as `see`; or the prompt is for another task.
            InvalidFileError: as `see`.
        """
        return self._classify_images([(picture, prompt)], "classify_image")[0]

    def classify_image_batch(self, requests: Iterable[Look]) -> list[ImageClassification]:
        """Classify many pictures, each under a prompt of its own; requests are (picture, prompt) pairs.

        Returns:
            One classification a request, in their order, each as it is alone.

        Raises:
            UsageError, InvalidFileError: as `see_batch`.
        """
        return self._classify_images(requests, "classify_image_batch")

    def segment(self, picture: "Picture", *, prompt: LoadedPrompt | None = None) -> Segmentation:
        """Say which class every pixel of a picture is of.

        All of the picture is squeezed into the graph's input, or padded to a square where the model was
        trained so, and the result covers all of it.

        Args:
            picture: as in `see`.
            prompt: for image segmentation.

        Raises:
            UsageError: as `see`; or there is no prompt for this task.
            InvalidFileError: as `see`.
        """
        return self._segment([(picture, prompt)], "segment")[0]

    def segment_batch(self, requests: Iterable[Look]) -> list[Segmentation]:
        """Segment many pictures; arguments, result and errors as `classify_image_batch`."""
        return self._segment(requests, "segment_batch")

    def detect(
        self,
        picture: "Picture",
        *,
        prompt: LoadedPrompt | None = None,
        threshold: float = _THRESHOLD,
    ) -> Detections:
        """Find things in a picture, with a box around each; at most one for each virtual token.

        Of a model that finds what a text names, the prompt says what is looked for, and each patch may
        find one thing.

        Args:
            picture: as in `see`; all of it is looked at.
            prompt: for object detection.
            threshold: least score, 0 to 1.

        Raises:
            UsageError: as `see`; or there is no prompt for this task, or the threshold is out of range.
            InvalidFileError: as `see`.
        """
        return self._detect([(picture, prompt)], "detect", threshold)[0]

    def detect_batch(
        self, requests: Iterable[Look], *, threshold: float = _THRESHOLD
    ) -> list[Detections]:
        """Detect in many pictures; arguments, result and errors as `classify_image_batch`."""
        return self._detect(requests, "detect_batch", threshold)

    def embed_image(self, picture: "Picture", *, prompt: LoadedPrompt | None = None) -> Embedding:
        """Turn a picture into the vector that heads read.

        Args:
            picture: as in `see`.
            prompt: for any task; its virtual tokens are used, its head is not.

        Raises:
            UsageError: as `see`.
            InvalidFileError: as `see`.
        """
        return self._embed_images([(picture, prompt)], "embed_image")[0]

    def embed_image_batch(self, requests: Iterable[Look]) -> list[Embedding]:
        """Embed many pictures; requests as in `classify_image_batch`.

        Returns:
            One embedding a request, in their order, each as it is alone. `np.array` makes float32
            (requests, head_size) of them.

        Raises:
            UsageError, InvalidFileError: as `see_batch`.
        """
        return self._embed_images(requests, "embed_image_batch")

    def image_outputs(
        self, pixel_values: npt.NDArray[Any], prompts: Sequence[LoadedPrompt | None]
    ) -> dict[str, npt.NDArray[np.float32]]:
        """What the graph gives, for pictures that are numbers already.

        Args:
            pixel_values: (pictures, 3, height, width), normalised.
            prompts: one a picture, with equally many layers of rows and equally many rows, all with a head
                or none, and with equal box layers; or all None.

        Returns:
            logits (pictures, 1 + P + N, classes), those of several heads side by side; boxes (pictures,
            1 + P + N, 4), centre x, centre y, width and height as shares of what pixel_values show;
            features (pictures, 1 + P + N, head_size). The first position is the picture's own, P are virtual
            tokens, N patches row by row.

        Raises:
            UsageError: the bundle is no image model's, or pictures or prompts do not go together.
        """
        runner, image = self._runner, self.manifest.image
        if not isinstance(runner, Vision) or image is None:
            refuse("image_outputs", self.manifest.task)
        shape = (len(prompts), 3, image.height, image.width)
        if np.shape(pixel_values) != shape:
            raise UsageError(
                f"pixel_values has shape {np.shape(pixel_values)}, expected {shape}: a picture for each "
                "prompt, as the bundle's preprocessor makes it."
            )
        check_together(prompts)
        return runner.outputs(np.asarray(pixel_values), prompts)

    def _classify_images(self, requests: Iterable[Look], call: str) -> list[ImageClassification]:
        return self._look(requests, call, CLASSIFIES, lambda _, seen: to_image_classification(seen))

    def _segment(self, requests: Iterable[Look], call: str) -> list[Segmentation]:
        return self._look(requests, call, SEGMENTS, lambda _, seen: self._to_segmentation(seen))

    def _detect(self, requests: Iterable[Look], call: str, threshold: float) -> list[Detections]:
        least = check_threshold(threshold)
        return self._look(requests, call, DETECTS, lambda _, seen: self._to_detections(seen, least))

    def _embed_images(self, requests: Iterable[Look], call: str) -> list[Embedding]:
        return self._look(requests, call, EMBEDS, lambda _, seen: self._to_embedding(seen))

    def _see(self, requests: Iterable[Look], call: str, threshold: float) -> list[Sighting]:
        least = check_threshold(threshold)

        def finish(sight: Sight, seen: Seen) -> Sighting:
            if sight.task == CLASSIFIES:
                return to_image_classification(seen)
            if sight.task == SEGMENTS:
                return self._to_segmentation(seen)
            if sight.task == DETECTS:
                return self._to_detections(seen, least)
            return self._to_embedding(seen)

        return self._look(requests, call, None, finish)

    def _to_segmentation(self, seen: Seen) -> Segmentation:
        return to_segmentation(seen, self._geometry)

    def _to_detections(self, seen: Seen, threshold: float) -> Detections:
        return to_detections(seen, threshold, self._geometry.detects)

    @property
    def _geometry(self) -> "ImageGeometry":
        if self.manifest.image is None:
            raise AssertionError("what is run looks at pictures")
        return self.manifest.image

    def _to_embedding(self, seen: Seen) -> Embedding:
        return to_image_embedding(seen, normalize=self.manifest.normalize)

    def _look(
        self,
        requests: Iterable[Look],
        call: str,
        task: str | None,
        finish: Callable[[Sight, Seen], _T],
    ) -> list[_T]:
        """Run (picture, prompt) requests; a task of None is that of each prompt."""
        started = time.perf_counter()
        runner = self._runner
        if not isinstance(runner, Vision):
            refuse(call, self.manifest.task)
        sights = [self._sight(request, call, task) for request in requests]
        return runner.run(
            sights,
            lambda index, seen: finish(sights[index], seen),
            load_ms=self.load_ms,
            started=started,
        )

    def _sight(self, request: Look, call: str, task: str | None) -> Sight:
        """A request, once it is known that its prompt has what the task reads."""
        if not isinstance(request, tuple) or len(request) != 2:
            raise UsageError(
                f"model.{call} takes pairs of a picture and a prompt (or None); found {str(request)[:60]!r}."
            )
        picture, prompt = request
        if prompt is not None:
            check_prompt(prompt, self)
            if task not in (None, EMBEDS, prompt.prompt.task):
                right = _DOES[prompt.prompt.task]
                raise UsageError(
                    f"prompt {prompt.name!r} is for {prompt.prompt.task}, so model.{call} has no use for it. "
                    f"Call model.{right}, or model.see, which does what the prompt is for."
                )
            return Sight(picture, prompt, task or prompt.prompt.task)
        has_head = bool(self.manifest.labels)
        looks_for = self._geometry.detects == "patches"
        task = task or (CLASSIFIES if has_head else DETECTS if looks_for else EMBEDS)
        if task in (SEGMENTS, DETECTS) or (task == CLASSIFIES and not has_head):
            what = "classes" if task == CLASSIFIES else task
            raise UsageError(
                f"nothing says how this model does {what}: it has no head of its own for it. Ask under a "
                "prompt that brings one: prompt=model.load_prompt(...), edgept run --prompt."
            )
        return Sight(picture, None, task)
