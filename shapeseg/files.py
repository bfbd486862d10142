"""Where runs live, and files that are whole or absent."""

import errno
import hashlib
import json
import math
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from shapeseg.checks import MOST, expect, one_of, told, whole

ROOT = Path(__file__).resolve().parents[1]  # the repository


def find_path(path, name, start=ROOT):
    """The absolute path of an argument, or a ValueError if no file can have it; a relative one counts from `start`."""
    try:
        found = start / Path(path)
        found.lstat()
    except FileNotFoundError:
        pass
    except (TypeError, ValueError, OSError) as error:
        raise ValueError(f"{name}: expected a path, got {told(path)} ({error})") from error
    return found


def run_directory(run_dir):
    """The absolute path of a run directory, made if it is absent.

    Parameters
    ----------
    run_dir : path
        A relative one counts from the repository's root, wherever the kernel was started.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    ValueError
        If there can be no such directory.
    """
    expect(not one_of(run_dir, [""]), "run_dir", "the path of a directory", run_dir)
    path = find_path(run_dir, "run_dir")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"run_dir: expected a directory, or where one can be made, got {told(run_dir)} ({error})") from error
    return path


@contextmanager
def whole_file(path, need=0, before=None):
    """Give a temporary path to write to; the file appears under its name when all is written.

    Parameters
    ----------
    path : path
    need : int
        Bytes that will be written, if that is known.
    before : path, optional
        Gets what was under the name till then.

    Raises
    ------
    OSError
        If the disk is full: what was under the name stays.
    """
    path = find_path(path, "path")
    expect(path.parent.is_dir() and not path.is_dir(), "path", "the name of a file in a directory that is there", path, "make the directory first")
    # The ending stays last: writers go by it.
    partial = path.with_name(f".{path.stem[:40]}.{os.getpid()}.partial{path.suffix}")
    try:
        with room_for(path, need):
            yield partial
            with open(partial, "rb+") as written:
                os.fsync(written.fileno())  # before the name, so that a crash of the machine leaves no empty file
        if before and path.exists():
            os.replace(path, before)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def room_for(path, need=0):
    """Raise an OSError that names the path and the space if the disk is full, before or while something is written.

    Libraries tell of it in their own ways, or not at all: so what counts is the space that is left.
    """
    def full(needed):
        return OSError(errno.ENOSPC, f"the disk is full: {needed / 1e6:.1f} MB needed, {free / 1e6:.1f} MB free; make room "
                       "and try again, what was there before is as it was", str(path))

    free = shutil.disk_usage(path.parent).free
    if free < need:
        raise full(need)
    try:
        yield
    except Exception as error:
        left = shutil.disk_usage(path.parent).free
        if left < 2**16 or getattr(error, "errno", None) == errno.ENOSPC:
            raise full(max(need, free)) from error
        raise


def checksum(path):
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_results(run_dir, **results):
    """Write a run's numbers, a flat dictionary, to results.json in its directory.

    Parameters
    ----------
    run_dir : path
        As for `run_directory`.
    **results : number, str, bool or None
        A nan or an infinity is written as null.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    ValueError
        If a value is none of these, or there can be no such directory.
    """
    flat = {}
    for name, value in results.items():
        value = value.item() if isinstance(value, (np.generic, np.ndarray)) and value.shape == () else value
        good = isinstance(value, (float, str, bool, type(None))) or whole(value, -MOST)
        expect(good, name, "a number, a text, a truth value or None", value, "give each number a name of its own")
        flat[name] = None if isinstance(value, float) and not math.isfinite(value) else value  # JSON has no nan
    path = run_directory(run_dir) / "results.json"
    with whole_file(path) as partial:
        partial.write_text(json.dumps(flat, indent=1) + "\n")
    return path
