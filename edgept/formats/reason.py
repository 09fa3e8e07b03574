"""Why a prompt file is refused: one name per rule, the same in the Python and the C reader."""

from enum import StrEnum

__all__ = ["Reason"]


class Reason(StrEnum):
    """The rules of `prompt_file.md`, in the order in which a reader checks them.

    The value is what `InvalidFileError.reason` holds. Values are never renamed; a new rule gets a
    new one.
    """

    # Rule 1: the file.
    FILE_IS_LINK = "file-is-link"  # the last component of the path is a symbolic link
    FILE_NOT_REGULAR = "file-not-regular"  # a folder, FIFO, socket or device
    FILE_TOO_SMALL = "file-too-small"  # under 16 bytes
    FILE_TOO_LARGE = "file-too-large"  # over the reader's limit, 16 MiB by default
    FILE_CHANGED = "file-changed"  # it grew or shrank while it was read
    # Rule 2: the header's length.
    HEADER_TOO_LARGE = "header-too-large"  # over 64 KiB
    HEADER_TRUNCATED = "header-truncated"  # longer than what follows it in the file
    # Rule 3: the header's text. The first offence in reading order counts.
    HEADER_START = "header-start"  # the first byte is not {
    HEADER_UTF8 = "header-utf8"  # not strict UTF-8
    HEADER_JSON = "header-json"  # not JSON, or true, false, null, which a header never holds
    HEADER_DEPTH = "header-depth"  # nested deeper than 3
    HEADER_DUPLICATE_KEY = "header-duplicate-key"  # a key twice in one object, escapes resolved
    HEADER_NUMBER = "header-number"  # signed, fractional, exponent, leading zero, over 15 digits
    HEADER_SURROGATE = "header-surrogate"  # \ud800 to \udfff that are not a pair
    HEADER_NUL = "header-nul"  # \u0000 in a string, where a C string would end
    # Rule 4: each tensor in the header's order, then all of them together.
    TENSOR_NAME = "tensor-name"  # not of the closed set
    TENSOR_ENTRY = "tensor-entry"  # not exactly dtype, shape and data_offsets of their types
    TENSOR_DTYPE = "tensor-dtype"  # not F32, F16 or BF16
    TENSOR_RANK = "tensor-rank"  # a number of dimensions that this name does not take
    TENSOR_ZERO_DIM = "tensor-zero-dim"  # a dimension of zero
    TENSOR_SHAPE = "tensor-shape"  # prompt_kv whose second dimension is not 2
    TENSOR_OVERFLOW = "tensor-overflow"  # its bytes exceed 2^63 - 1
    TENSOR_OUT_OF_BOUNDS = "tensor-out-of-bounds"  # offsets reversed or past the end of the data
    TENSOR_SIZE = "tensor-size"  # the offsets span other than shape times element size
    TENSOR_MISSING = "tensor-missing"  # the file holds none
    DATA_HOLE = "data-hole"  # bytes that no tensor owns, before or between tensors
    DATA_OVERLAP = "data-overlap"  # bytes that two tensors own
    DATA_TRAILING = "data-trailing"  # bytes after the last tensor
    HEAD_MISMATCH = "head-mismatch"  # parts of a head that do not belong together
    BOX_MISMATCH = "box-mismatch"  # not four numbers off what the head reads
    # Rule 5: the values.
    VALUE_NOT_FINITE = "value-not-finite"  # an infinity or a NaN
    # Rule 6: the metadata.
    METADATA_MISSING = "metadata-missing"  # no __metadata__, or a required key absent
    METADATA_TYPE = "metadata-type"  # not an object of strings
    METADATA_TOO_LONG = "metadata-too-long"  # a value over its limit
    METADATA_CONTROL = "metadata-control"  # a control character, which could drive a terminal
    METADATA_FORMAT = "metadata-format"  # format is not edgept-prompt
    METADATA_VERSION = "metadata-version"  # a format version that this reader does not know
    METADATA_FINGERPRINT = "metadata-fingerprint"  # not 64 lowercase hexadecimal digits
    METADATA_LABELS = "metadata-labels"  # not a JSON array of distinct strings, one per class
