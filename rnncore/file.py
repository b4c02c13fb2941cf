"""Files that are written whole or stay as they were."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["check_writable", "write_whole"]


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise now the error that `write_whole` would raise for want of a directory or of permission; change nothing.

    Parameters
    ----------
    path : path-like

    Raises
    ------
    OSError
        With `path` as its file name.

    Examples
    --------
    >>> from rnncore.file import check_writable
    >>> check_writable("/no/such/file")
    Traceback (most recent call last):
    FileNotFoundError: [Errno 2] No such file or directory: '/no/such/file'
    """
    with _naming(path):
        if not _is_special(path):
            with _beside(path) as (new, _):
                open(new, "xb").close()
        elif not Path(path).is_fifo():  # its reader would take the closing for the end
            open(path, "ab").close()


def write_whole(path: str | os.PathLike[str], data: bytes | memoryview) -> None:
    """Write `data` to a file that, on an error, is as it was, or not there if it was not.

    Parameters
    ----------
    path : path-like
        What is no regular file, such as a device or a pipe, is written to directly.
    data : bytes or memoryview

    Raises
    ------
    OSError
        With `path` as its file name.

    Notes
    -----
    The data goes to a new file in the same directory, which then takes the place of the old one, and its mode. Links
    are followed.

    Examples
    --------
    >>> import os, tempfile
    >>> from rnncore.file import write_whole
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_whole(os.path.join(folder, "a"), b"whole")
    ...     os.listdir(folder), os.path.getsize(os.path.join(folder, "a"))
    (['a'], 5)
    """
    with _naming(path):
        if _is_special(path):
            with open(path, "wb") as file:
                file.write(data)
            return
        with _beside(path) as (new, target):
            with open(new, "xb") as file:
                file.write(data)
            if target.exists():
                shutil.copymode(target, new)
            os.replace(new, target)


def _is_special(path: str | os.PathLike[str]) -> bool:
    # not path.is_file(): what /dev/stdout links to can be opened by that name, and by no other if it was deleted
    return Path(path).exists() and not Path(os.path.realpath(path)).is_file()


@contextmanager
def _beside(path: str | os.PathLike[str]) -> Iterator[tuple[Path, Path]]:
    """A context with the name of a file to make, gone at the end unless renamed, and of the one to replace by it."""
    target = Path(os.path.realpath(path))
    if target.exists():
        open(target, "ab").close()  # a file that must not be written to must not be replaced either
    new = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        yield new, target
    finally:
        new.unlink(missing_ok=True)


@contextmanager
def _naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """A context whose OSErrors name `path`, whatever file they are about."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
