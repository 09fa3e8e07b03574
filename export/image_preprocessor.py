"""How a picture becomes a model's input: what transformers reads of the model, as the device will do it."""

import json
from typing import Any

from transformers import AutoImageProcessor

from edgept.bundle import PREPROCESSOR_NAME, ImageGeometry
from edgept.errors import ExportError, InvalidFileError
from edgept.export.source import ModelSource
from edgept.pictures import Preprocessor

__all__ = ["read_preprocessor"]


def read_preprocessor(source: ModelSource, image: ImageGeometry) -> tuple[Preprocessor, str]:
    """A model's preprocessor, and the text of its preprocessor_config.json with every default written out.

    Args:
        source: of the model; older and newer files than preprocessor_config.json are found by transformers.
        image: what the model takes.

    Raises:
        ExportError: the model says nothing of it, or what it says is not known on a device, or does not
            make pictures of the model's size.
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
    if (preprocessor.height, preprocessor.width) != (image.height, image.width):
        raise ExportError(
            f"{source.location}: its preprocessor makes pictures of {preprocessor.width} x "
            f"{preprocessor.height} pixels, the model takes {image.width} x {image.height}. Correct the size "
            f"in its {PREPROCESSOR_NAME}."
        )
    return preprocessor, text
