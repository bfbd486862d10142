"""Where runs live, and files that are whole or absent."""

import json
import math
import os
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # the repository


def run_directory(run_dir):
    """The absolute path of a run directory, made if it is absent.

    Parameters
    ----------
    run_dir : path
        A relative one counts from the repository's root, wherever the kernel was started.

    Returns
    -------
    pathlib.Path
    """
    path = ROOT / run_dir
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def whole_file(path):
    """Give a temporary path to write to; the file appears under its name when all is written."""
    path = Path(path)
    # The ending stays last: writers go by it.
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


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
        If a value is none of these.
    """
    flat = {}
    for name, value in results.items():
        value = value.item() if getattr(value, "shape", None) == () else value  # NumPy's numbers
        if not isinstance(value, (int, float, str, bool, type(None))):
            raise ValueError(f"{name}: expected a number, a text, a truth value or None, got {value!r}; "
                             "give each number a name of its own")
        flat[name] = None if isinstance(value, float) and not math.isfinite(value) else value  # JSON has no nan
    path = run_directory(run_dir) / "results.json"
    with whole_file(path) as partial:
        partial.write_text(json.dumps(flat, indent=1) + "\n")
    return path
