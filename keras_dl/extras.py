"""Optional dependencies: imported where they are used; a missing one is an error with the pip command for it."""

import importlib
from types import ModuleType


def require(module: str, extra: str) -> ModuleType:
    """Imports `module`, which the extra `extra` of this package installs.

    Args:
        module: str. Dotted name of the module.
        extra: str. The extra of `setup.cfg` that provides it.

    Returns:
        The imported module.

    Raises:
        ImportError: if the module is not installed; the message holds the pip command that installs it.

    Example:

    >>> require("json", extra="recipes").dumps({})
    '{}'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name.split(".")[0]):
            raise  # the module is installed, but something that it needs is not
        command = f"pip install 'keras_dl[{extra}]'"
        raise ImportError(f"{module} is not installed. Install it with: {command}", name=error.name) from error
