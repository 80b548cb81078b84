"""Text files, read and written whole, with one clear line when that cannot be done."""

from __future__ import annotations

import contextlib
import difflib
import os
import tempfile
from pathlib import Path

from odekit.errors import ProblemError


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a UTF-8 file, without a byte order mark, line ends as newlines.

    Raises:
        ProblemError: there is no such file, or it is not text.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ProblemError(
            f"path: there is no file {str(path)!r}: {_nearest(Path(path))}"
        ) from None
    except IsADirectoryError:
        raise ProblemError(f"path: {str(path)!r} is a folder: name a file in it") from None
    except UnicodeDecodeError:
        raise ProblemError(
            f"path: {str(path)!r} is not UTF-8 text: save it as plain text in UTF-8"
        ) from None
    except (OSError, ValueError) as error:
        raise ProblemError(f"path: cannot read {str(path)!r}: {error}") from None


def _nearest(path: Path) -> str:
    """Advice on a file that is not there: the nearest name beside it."""
    if not path.parent.is_dir():
        return f"nor a folder {str(path.parent)!r}, write the path from {os.getcwd()!r}"
    close = difflib.get_close_matches(path.name, sorted(os.listdir(path.parent)), n=1)
    if close:
        return f"did you mean {str(path.parent / close[0])!r}?"
    return f"nothing in {str(path.parent)!r} has a name like it"


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 file, all of it or nothing.

    Raises:
        ProblemError: the file cannot be written there.
    """
    target = Path(path)
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with open(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # what an ordinary open would have given
        os.replace(temporary, target)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        reason = error.strerror or str(error)
        raise ProblemError(f"path: cannot write {str(target)!r}: {reason}") from None
