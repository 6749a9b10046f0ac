"""Where the installed releases live."""

import os
import sys
from pathlib import Path

from kvreference import _errors

PACKAGE = Path(__file__).resolve().parent


def home() -> Path:
    """Return the folder of the installed releases; it need not exist yet.

    ``KVREFERENCE_HOME`` if set; else ``releases`` beside this file, in a writable source checkout;
    else ``kvreference`` in the user's cache directory. Creates nothing. Raises ReferenceError
    where there is no home directory to start from.
    """
    chosen = os.environ.get("KVREFERENCE_HOME")
    if not chosen and is_checkout(PACKAGE) and os.access(PACKAGE, os.W_OK):
        return PACKAGE / "releases"
    try:
        return Path(chosen).expanduser().absolute() if chosen else _find_user_cache()
    except RuntimeError as error:
        raise _errors.ReferenceError(
            "there is no folder for the installed releases",
            kind="disk",
            expected="KVREFERENCE_HOME, or a home directory of the user",
            actual=str(error),
            mend="set KVREFERENCE_HOME to an absolute path",
        ) from error


def find_tree(release: str) -> Path:
    """Return the folder that holds (or will hold) the ``mlx_lm`` package of `release`.

    It is called ``site-packages`` because type checkers and linters that walk a checkout leave
    folders of that name alone.
    """
    return home() / release / "site-packages"


def is_checkout(package: Path) -> bool:
    """Say whether `package` is ``reference/kvreference`` of a source checkout."""
    root = package.parent.parent
    marked = (root / "pyproject.toml").exists() or (root / ".git").exists()
    return package.parent.name == "reference" and marked


def _find_user_cache() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "kvreference"
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: a relative path is to be ignored.
    cache = Path(chosen) if Path(chosen).is_absolute() else Path.home() / ".cache"
    return cache / "kvreference"
