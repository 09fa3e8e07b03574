"""Find a transformers model, the task that it is for, and load it frozen."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from optimum.exporters.tasks import TasksManager
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoModelForZeroShotObjectDetection,
    GenerationConfig,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

from edgept.errors import ExportError, UsageError
from edgept.export.families import ENCODERS, SEQ2SEQ, VISION, EncoderFamily, VisionFamily
from edgept.export.heads import find_layers
from edgept.export.image_preprocessor import adopt_preprocessor
from edgept.manifest import SEQ2SEQ_TASK

__all__ = ["SUPPORTED_TASKS", "ModelSource", "find_model", "load_frozen"]

# The class that loads a task's model.
_AUTO_CLASSES: dict[str, Any] = {
    "text-generation": AutoModelForCausalLM,
    "text-classification": AutoModelForSequenceClassification,
    "token-classification": AutoModelForTokenClassification,
    "question-answering": AutoModelForQuestionAnswering,
    "feature-extraction": AutoModel,
    SEQ2SEQ_TASK: AutoModelForSeq2SeqLM,
    "image-classification": AutoModelForImageClassification,
    "image-feature-extraction": AutoModel,
    "zero-shot-object-detection": AutoModelForZeroShotObjectDetection,
}
SUPPORTED_TASKS = tuple(_AUTO_CLASSES)
_DECODER_TASKS = ("text-generation", "text-classification")


@dataclass(frozen=True)
class ModelSource:
    """A model that can be exported.

    Attributes:
        location: local folder or hub id, as the user gave it.
        folder: where its files are: the local folder, or the hub's snapshot in the cache.
        config: the transformers configuration.
        architecture: class that the checkpoint was saved from.
        task: transformers' name of the task to export for.
        generation: the model's generation settings: where its end-of-text ids stand.
    """

    location: str
    folder: Path
    config: Any
    architecture: str
    task: str
    generation: Any

    @property
    def name(self) -> str:
        """Last part of the folder or hub id."""
        path = Path(self.location)
        return path.resolve().name if path.is_dir() else path.name

    @property
    def is_encoder(self) -> bool:
        """Whether the model is an encoder, which reads a text as a whole and keeps no cache."""
        return self.config.model_type in ENCODERS

    @property
    def is_image(self) -> bool:
        """Whether the model reads pictures."""
        return self.config.model_type in VISION

    @property
    def is_seq2seq(self) -> bool:
        """Whether the model is an encoder-decoder, exported to generate."""
        return self.task == SEQ2SEQ_TASK

    @property
    def eos_token_ids(self) -> list[int]:
        """Ids that end a generation, from the generation settings as transformers reads them."""
        eos = self.generation.eos_token_id
        if eos is None:
            eos = getattr(self.config, "eos_token_id", None)
        if eos is None:
            return []
        return [int(token) for token in eos] if isinstance(eos, (list, tuple)) else [int(eos)]


def find_model(location: str, task: str | None = None) -> ModelSource:
    """Read a model's configuration and decide the task.

    Args:
        location: local transformers folder or hub id.
        task: transformers' name of the task; None takes it from the checkpoint's architecture.

    Raises:
        UsageError: nothing there is a transformers model, or the task is not one that is supported.
    """
    if Path(location).exists() and not (Path(location) / "config.json").is_file():
        raise UsageError(
            f"{location} holds no config.json, so it is not a transformers model folder. Give the folder "
            "that save_pretrained wrote, or a hub id."
        )
    folder = Path(location) if Path(location).is_dir() else _download(location)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise UsageError(
            f"no transformers model at {location!r}: {first_line}. Give a folder that save_pretrained "
            "wrote or a hub id; models that need trust_remote_code are not exported."
        ) from error
    if getattr(config, "quantization_config", None) is not None:
        raise UsageError(
            f"{location} is already quantised; the export needs the float weights. Give the original "
            "model and let --precision quantise it."
        )
    architecture = (getattr(config, "architectures", None) or ["unknown"])[0]
    task = _find_task(config, architecture, task)
    try:
        generation = GenerationConfig.from_pretrained(folder)
    except OSError:
        generation = GenerationConfig.from_model_config(config)
    return ModelSource(location, folder, config, architecture, task, generation)


def _download(hub_id: str) -> Path:
    """Fetch a model from the hub once, so that everything after reads the same files."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    texts = ["*.json", "*.txt", "*.model", "*.jinja"]
    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=[*texts, "*.safetensors"]))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(hub_id, allow_patterns=[*texts, "*.bin"]))
    except (OSError, ValueError, HfHubHTTPError, HFValidationError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise UsageError(
            f"there is no folder {hub_id!r}, and as a hub id it could not be fetched: {first_line}. Check "
            "the path, or the id, the network and your access ('hf auth login')."
        ) from error
    return folder


def _find_image_task(config: Any, architecture: str, task: str | None) -> str:
    """That of a picture's own head where the model has one; prompts are free in what they make of it."""
    family = VISION[config.model_type]
    found = ["image-feature-extraction"]
    if architecture in family.heads:
        found.insert(0, "image-classification")
    if family.boxes is not None:
        found = ["zero-shot-object-detection"]
    wanted = "image-feature-extraction" if task == "feature-extraction" else task or found[0]
    if wanted not in found:
        raise UsageError(
            f"{architecture} is an image model, which is exported for {' or '.join(found)}, found --task {task}. What a "
            "prompt makes of it (classes, segments, boxes) the prompt says: leave --task out."
        )
    return wanted


def _find_task(config: Any, architecture: str, task: str | None) -> str:
    if config.model_type in VISION:
        return _find_image_task(config, architecture, task)
    if task is not None:
        task = TasksManager.map_from_synonym(task).removesuffix("-with-past")
    else:
        import transformers

        model_class = getattr(transformers, architecture, None)
        if model_class is None:
            raise UsageError(
                f"the task cannot be found from the architecture {architecture!r} in config.json. "
                f"Say it with --task ({', '.join(SUPPORTED_TASKS)})."
            )
        try:
            task = str(TasksManager.infer_task_from_model(model_class)).removesuffix("-with-past")
            if architecture in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.values():
                task = SEQ2SEQ_TASK  # BART's class is that of filling masks, too
        except ValueError as error:
            raise UsageError(
                f"{architecture} has no single task ({error}). Say it with --task "
                f"({', '.join(SUPPORTED_TASKS)})."
            ) from error
    model_type = config.model_type
    is_encoder = model_type in ENCODERS
    if task not in SUPPORTED_TASKS:
        classifies = is_encoder or model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        hint = " Say --task text-classification to export it for that." if classifies else ""
        if model_type in SEQ2SEQ:
            hint = f" Say --task {SEQ2SEQ_TASK} to export it for that."
        raise UsageError(
            f"{architecture} is for the task {task}, which this version does not export. It exports "
            f"{', '.join(SUPPORTED_TASKS)}.{hint}"
        )
    if getattr(config, "is_encoder_decoder", False) != (task == SEQ2SEQ_TASK):
        kind = "no encoder-decoder" if task == SEQ2SEQ_TASK else "an encoder-decoder"
        raise UsageError(
            f"{architecture} is {kind}, which this version does not export for {task}. Encoder-decoders "
            f"are exported for {SEQ2SEQ_TASK}, and nothing else is."
        )
    if task == SEQ2SEQ_TASK:
        if model_type not in SEQ2SEQ:
            raise UsageError(
                f"{architecture} ({model_type}) is an encoder-decoder of a family that this version does "
                f"not export; it exports {', '.join(SEQ2SEQ)}. Give one of these."
            )
        return task
    if is_encoder and task == "text-generation":
        raise UsageError(
            f"{architecture} ({model_type}) is an encoder, which generates nothing. Say --task "
            "text-classification."
        )
    if not is_encoder and model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UsageError(
            f"transformers has no decoder-only model of the type {model_type!r}, and the encoders that "
            f"this version exports are {', '.join(ENCODERS)}. Give one of these, or a causal language "
            "model."
        )
    if not is_encoder and task not in _DECODER_TASKS:
        raise UsageError(
            f"{architecture} ({model_type}) is no encoder that this version knows, and {task} is exported "
            f"for these: {', '.join(ENCODERS)}. A decoder-only model is exported for "
            f"{' or '.join(_DECODER_TASKS)}."
        )
    if (
        task == "text-classification"
        and model_type not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    ):
        raise UsageError(
            f"transformers has no {model_type!r} model for the task {task}. Give a model of another "
            "family."
        )
    return task


def load_frozen(source: ModelSource, dtype: torch.dtype = torch.float32) -> Any:
    """Load the PyTorch model, in evaluation mode, without gradients.

    Scaled-dot-product attention is what transformers takes where the model has it, and what
    `torch.onnx` exports quickest. The head alone may be missing from the checkpoint: prompts bring
    their own. It is then all zeros.

    Raises:
        ExportError: the weights cannot be loaded, or some are missing from the checkpoint; or of an image
            model, see `adopt_preprocessor`.
    """
    model_type = source.config.model_type
    family = ENCODERS.get(model_type)
    options: dict[str, Any] = {}
    bare: EncoderFamily | VisionFamily | None
    bare = VISION.get(model_type) if source.task == "image-feature-extraction" else None
    if source.task == "feature-extraction":
        bare = family
    if bare is not None and bare.has_pooler:
        options["add_pooling_layer"] = False
    try:
        loaded: Any = _AUTO_CLASSES[source.task].from_pretrained(
            source.folder,
            dtype=dtype,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ExportError(
            f"the weights of {source.location} could not be loaded: {error}. Check that the folder "
            "holds model.safetensors (or pytorch_model.bin) and matches its config.json."
        ) from error
    model, report = loaded
    missing = sorted(report["missing_keys"])
    layers = find_layers(model)
    own = {
        f"{name}.{part}" for name, layer in layers.items() for part, _ in layer.named_parameters()
    }
    if own & {*missing}:
        missing = [name for name in missing if name not in own]
        for layer in layers.values():
            for parameter in layer.parameters():
                torch.nn.init.zeros_(parameter)
    if missing:
        reason = (
            f" ({family.why_incomplete})" if family is not None and family.why_incomplete else ""
        )
        raise ExportError(
            f"{source.location} lacks {len(missing)} weights ({missing[0]}, …), which would be random"
            f"{reason}. Give a complete checkpoint; a peft folder is a prompt, its base model is what is "
            "exported."
        )
    if source.is_image:
        adopt_preprocessor(model, source)
    return model.eval().requires_grad_(False)
