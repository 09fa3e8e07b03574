"""How a picture becomes a model's input: what transformers reads of the model, as the device will do it."""

import json
from typing import TYPE_CHECKING, Any

from transformers import AutoImageProcessor

from edgept.bundle import PREPROCESSOR_NAME
from edgept.errors import ExportError, InvalidFileError
from edgept.export.families import VISION
from edgept.pictures import Preprocessor

if TYPE_CHECKING:
    from edgept.export.source import ModelSource

__all__ = ["adopt_preprocessor", "read_preprocessor"]


def adopt_preprocessor(model: Any, source: "ModelSource") -> None:
    """Write into an image model's configuration which pictures it is given.

    Their size is the preprocessor's, where the model takes others than it was trained on (DINOv2, which
    stretches its table of positions). How they are made is a part of what the model computes: the
    fingerprint counts it.

    Args:
        model: of a family in `VISION`; its image tower's configuration is changed.
        source: that it was loaded from.

    Raises:
        ExportError: as `read_preprocessor`; or the pictures are not of the model's size.
    """
    preprocessor, _ = read_preprocessor(source)
    family = VISION[model.config.model_type]
    config = family.tower(model).config
    size = config.image_size
    wanted = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
    found = (preprocessor.height, preprocessor.width)
    if found != wanted and not family.takes_any_size:
        raise ExportError(
            f"{source.location}: its preprocessor makes pictures of {found[1]} x {found[0]} pixels, the model "
            f"takes {wanted[1]} x {wanted[0]}. Correct the size in its {PREPROCESSOR_NAME}."
        )
    config.image_size = [*found]
    config.preprocessing = preprocessor.digest


def read_preprocessor(source: "ModelSource") -> tuple[Preprocessor, str]:
    """A model's preprocessor, and the text of its preprocessor_config.json with every default written out.

    Args:
        source: of the model; older and newer files than preprocessor_config.json are found by transformers.

    Raises:
        ExportError: the model says nothing of it, or what it says is not known on a device.
    """
    try:
        loader: Any = AutoImageProcessor  # which transformers does not type
        processor = loader.from_pretrained(source.folder, trust_remote_code=False)
        text = str(processor.to_json_string())
        preprocessor = Preprocessor(json.loads(text))
    except InvalidFileError as error:
        raise ExportError(f"{source.location}: {error}") from error
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ExportError(
            f"{source.location} does not say how a picture becomes its input: {str(error)[:200]}. Put the "
            f"{PREPROCESSOR_NAME} that it was trained with there."
        ) from error
    return preprocessor, text
