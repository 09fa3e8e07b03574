"""Pictures, from files that nobody vouches for to what a graph takes: Pillow and numpy, no torch.

Code organization:
    reading.py        a file, bytes or an array to an upright RGB picture, within limits
    preprocessor.py   that to the graph's pixel values, as transformers' own processor makes them
    finding.py        which files a folder or a pattern stands for
    drawing.py        boxes and masks on a picture
"""

from edgept.pictures.preprocessor import Preprocessor
from edgept.pictures.reading import MAX_PIXELS, Picture, read_picture

__all__ = ["MAX_PIXELS", "Picture", "Preprocessor", "read_picture"]
