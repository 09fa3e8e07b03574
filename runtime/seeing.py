"""The calls on a model that looks at a picture in one forward pass: classify, segment, detect, embed."""

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

from edgept.errors import UsageError
from edgept.latency import Timed, until_now
from edgept.runtime.calls import refuse
from edgept.runtime.content import check_prompt
from edgept.runtime.detector import Detections, check_threshold, to_detections
from edgept.runtime.embedder import Embedding, to_image_embedding
from edgept.runtime.image_classifier import ImageClassification, to_image_classification
from edgept.runtime.segmenter import Segmentation, to_segmentation
from edgept.runtime.sights import CLASSIFIES, DETECTS, EMBEDS, SEGMENTS, PromptT, Sight
from edgept.runtime.vision import Seen, Vision

if TYPE_CHECKING:
    from edgept.manifest import ImageGeometry, Manifest
    from edgept.pictures import Picture

__all__ = ["SeeingModel", "Sighting"]

_DOES = {CLASSIFIES: "classify_image", SEGMENTS: "segment", DETECTS: "detect"}
_THRESHOLD = 0.5

_T = TypeVar("_T", bound=Timed)

Look: TypeAlias = tuple["Picture", PromptT | None]
"""A picture and the prompt that it is seen under."""
Sighting: TypeAlias = ImageClassification | Segmentation | Detections | Embedding
"""What is found in a picture, by the prompt's task."""


class SeeingModel(Generic[PromptT]):
    """What a model offers on bundles of image models, in Python and in C.

    A picture is a path, the bytes of a file, uint8 (height, width, 3) or Pillow's own. What a prompt is
    for stands in its file, so one bundle classifies, segments and detects.
    """

    manifest: "Manifest"
    load_ms: float
    _vision: Vision[PromptT] | None  # None of a model of text

    def see(
        self,
        picture: "Picture",
        *,
        prompt: PromptT | None = None,
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
        self, requests: Iterable[Look[PromptT]], *, threshold: float = _THRESHOLD
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
        self, picture: "Picture", *, prompt: PromptT | None = None
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

    def classify_image_batch(self, requests: Iterable[Look[PromptT]]) -> list[ImageClassification]:
        """Classify many pictures, each under a prompt of its own; requests are (picture, prompt) pairs.

        Returns:
            One classification a request, in their order, each as it is alone.

        Raises:
            UsageError, InvalidFileError: as `see_batch`.
        """
        return self._classify_images(requests, "classify_image_batch")

    def segment(self, picture: "Picture", *, prompt: PromptT | None = None) -> Segmentation:
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

    def segment_batch(self, requests: Iterable[Look[PromptT]]) -> list[Segmentation]:
        """Segment many pictures; arguments, result and errors as `classify_image_batch`."""
        return self._segment(requests, "segment_batch")

    def detect(
        self,
        picture: "Picture",
        *,
        prompt: PromptT | None = None,
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
        self, requests: Iterable[Look[PromptT]], *, threshold: float = _THRESHOLD
    ) -> list[Detections]:
        """Detect in many pictures; arguments, result and errors as `classify_image_batch`."""
        return self._detect(requests, "detect_batch", threshold)

    def embed_image(self, picture: "Picture", *, prompt: PromptT | None = None) -> Embedding:
        """Turn a picture into the vector that heads read.

        Args:
            picture: as in `see`.
            prompt: for any task; its virtual tokens are used, its head is not.

        Raises:
            UsageError: as `see`.
            InvalidFileError: as `see`.
        """
        return self._embed_images([(picture, prompt)], "embed_image")[0]

    def embed_image_batch(self, requests: Iterable[Look[PromptT]]) -> list[Embedding]:
        """Embed many pictures; requests as in `classify_image_batch`.

        Returns:
            One embedding a request, in their order, each as it is alone. `np.array` makes float32
            (requests, head_size) of them.

        Raises:
            UsageError, InvalidFileError: as `see_batch`.
        """
        return self._embed_images(requests, "embed_image_batch")

    def _classify_images(
        self, requests: Iterable[Look[PromptT]], call: str
    ) -> list[ImageClassification]:
        return self._look(requests, call, CLASSIFIES, lambda _, seen: to_image_classification(seen))

    def _segment(self, requests: Iterable[Look[PromptT]], call: str) -> list[Segmentation]:
        return self._look(requests, call, SEGMENTS, lambda _, seen: self._to_segmentation(seen))

    def _detect(
        self, requests: Iterable[Look[PromptT]], call: str, threshold: float
    ) -> list[Detections]:
        least = check_threshold(threshold)
        return self._look(requests, call, DETECTS, lambda _, seen: self._to_detections(seen, least))

    def _embed_images(self, requests: Iterable[Look[PromptT]], call: str) -> list[Embedding]:
        return self._look(requests, call, EMBEDS, lambda _, seen: self._to_embedding(seen))

    def _see(
        self, requests: Iterable[Look[PromptT]], call: str, threshold: float
    ) -> list[Sighting]:
        least = check_threshold(threshold)

        def finish(sight: Sight[PromptT], seen: Seen) -> Sighting:
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
        requests: Iterable[Look[PromptT]],
        call: str,
        task: str | None,
        finish: Callable[[Sight[PromptT], Seen], _T],
    ) -> list[_T]:
        """Run (picture, prompt) requests; a task of None is that of each prompt."""
        started = time.perf_counter()
        vision = self._vision
        if vision is None:
            refuse(call, self.manifest.task)
        sights = [self._sight(request, call, task, vision.prompt_type) for request in requests]
        return vision.run(
            sights,
            lambda sight, seen: until_now(finish(sight, seen), started),
            load_ms=self.load_ms,
            started=started,
        )

    def _sight(
        self, request: Look[PromptT], call: str, task: str | None, prompt_type: type[PromptT]
    ) -> Sight[PromptT]:
        """A request, once it is known that its prompt has what the task reads."""
        if not isinstance(request, tuple) or len(request) != 2:
            raise UsageError(
                f"model.{call} takes pairs of a picture and a prompt (or None); found {str(request)[:60]!r}."
            )
        picture, prompt = request
        if prompt is not None:
            check_prompt(prompt, self, prompt_type)
            if task not in (None, EMBEDS, prompt.task):
                right = _DOES[prompt.task]
                raise UsageError(
                    f"prompt {prompt.name!r} is for {prompt.task}, so model.{call} has no use for it. "
                    f"Call model.{right}, or model.see, which does what the prompt is for."
                )
            return Sight(picture, prompt, task or prompt.task)
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
