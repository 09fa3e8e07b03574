"""Every error that edgept raises on purpose.

Code organization:
    EdgeptError             the root; catch this one
    ├── UsageError          an argument cannot be used as given
    ├── MissingDependencyError  a package that this command needs is not installed
    ├── ExportError         a model could not be exported, or failed its parity check
    ├── InvalidFileError    a file breaks its format's rules
    ├── IncompatibleError   a prompt does not belong to this bundle
    └── UntrustedError      a file is not what its manifest or signature says

A message says what was found, what was expected and what to do next.
"""

from typing import ClassVar

__all__ = [
    "EdgeptError",
    "ExportError",
    "IncompatibleError",
    "InvalidFileError",
    "MissingDependencyError",
    "UntrustedError",
    "UsageError",
]


class EdgeptError(Exception):
    """The root of edgept's errors.

    Attributes:
        exit_code: what the command line exits with when this error ends it.
    """

    exit_code: ClassVar[int] = 1


class UsageError(EdgeptError):
    """An argument cannot be used as given."""

    exit_code = 2


class MissingDependencyError(EdgeptError):
    """A package that this operation needs is not installed; the message says which and how."""


class ExportError(EdgeptError):
    """A model could not be exported, or the export failed its parity check."""


class InvalidFileError(EdgeptError):
    """A file breaks its format's rules.

    Attributes:
        reason: a stable, machine-readable name of the broken rule, the same in the Python and the
            C reader (``"header-too-large"``, ``"value-not-finite"``, ...). The page
            `prompt_file.md` lists those of prompt files.
    """

    exit_code = 3

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class IncompatibleError(EdgeptError):
    """A prompt does not belong to this bundle: another model, other sizes, another task."""

    exit_code = 4


class UntrustedError(EdgeptError):
    """A file's bytes are not those that its manifest or signature promises."""

    exit_code = 5
