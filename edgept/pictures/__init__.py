"""Pictures, from files that nobody vouches for to what a graph takes: Pillow and numpy, no torch.

Code organization:
    reading.py        a file, bytes or an array to an upright RGB picture, within limits
    preprocessor.py   that to the graph's pixel values, as transformers' own processor makes them
    processor_defaults.py   what these take where a file does not say it
    smooth_resize.py  a resize that blurs first
    finding.py        which files a folder or a pattern stands for
    drawing.py        boxes and masks on a picture
"""

from edgept.pictures.preprocessor import Preprocessor
from edgept.pictures.reading import MAX_PIXELS, Picture, read_picture

__all__ = ["MAX_PIXELS", "Picture", "Preprocessor", "read_picture"]
