"""The workstation's side, or an error that says how to install it."""

from types import ModuleType

from edgept.errors import MissingDependencyError

__all__ = ["import_export"]


def import_export() -> ModuleType:
    """Import edgept.export.

    Raises:
        MissingDependencyError: torch, transformers or another package of the extra is missing.
    """
    try:
        import edgept.export
    except ImportError as error:
        raise MissingDependencyError(
            f"this command runs on a workstation, and {error.name or error} is not installed here. Install "
            "what it needs: pip install 'edgept[cpu,export]'"
        ) from error
    return edgept.export
