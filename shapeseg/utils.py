"""What all modules share: argument checks, paths, files that are whole or absent, a run's results."""

import hashlib
import json
import math
import os
import shutil
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]  # the repository


def expect(good, name, expected, got, advice=""):
    """Raise a ValueError that names the argument, what was expected and what was given, unless it is good."""
    if not good:
        got = got[0] if isinstance(got, (list, tuple)) and got and isinstance(got[0], np.ndarray) else got  # one of them says it
        if not (isinstance(got, str) and " " in got):  # a description of ours; what a reader gave is quoted
            got = f"{got.shape} {got.dtype}" if isinstance(got, np.ndarray) else repr(got)[:300]
        raise ValueError(f"{name}: expected {expected}, got {got}" + (advice and f"; {advice}"))


def is_int(value, min=0, max=math.inf):
    return isinstance(value, Integral) and not isinstance(value, bool) and min <= value <= max


def is_number(value, min=-math.inf, max=math.inf):
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value) and min <= value <= max


def random_key(*words):
    """A random stream that depends on these words alone; NumPy promises that it never changes."""
    return np.random.RandomState(np.frombuffer(hashlib.sha256(" ".join(map(str, words)).encode()).digest(), "<u4"))


def check_parameters(**parameters):
    """Raise a ValueError unless each parameter of a notebook, given as (value, rule), keeps to its rule.

    A rule is a range of integers, a tuple of the allowed values, a type, or, for a list of such values, a list that holds one of these.
    """
    for name, (value, rule) in parameters.items():
        values, one = (value, rule[0]) if isinstance(rule, list) else ([value], rule)
        if isinstance(one, range):
            keeps, words = lambda v: is_int(v, one[0], one[-1]), f"an integer from {one[0]} to {one[-1]}"
        elif isinstance(one, type):
            keeps, words = lambda v: isinstance(v, one) and v != "", f"a {one.__name__}"
        else:
            keeps, words = lambda v: any(type(v) is type(allowed) and v == allowed for allowed in one), f"one of {one}"
        good = isinstance(values, (list, tuple)) and values and all(map(keeps, values))
        expect(good, name, "a list, each " * isinstance(rule, list) + words, value)


def resolve_path(path, name="path", start=ROOT):
    """The absolute path of an argument; a relative one counts from `start`, ~ is the home directory."""
    expect(isinstance(path, (str, os.PathLike)) and path != "", name, "a path", path)
    return start / Path(path).expanduser()


def run_directory(run_dir):
    """The absolute path of a run directory, made if it is absent; a relative one counts from the repository's root."""
    path = resolve_path(run_dir, "run_dir")
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def atomic_write(path):
    """Give a temporary path to write a file or fill a folder at; it gets its name when all is written, or what was there stays."""
    path = resolve_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem[:40]}.{os.getpid()}.partial{path.suffix}")  # writers go by the suffix
    try:
        yield partial
        partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True) if partial.is_dir() else partial.unlink(missing_ok=True)


def write_results(run_dir, **results):
    """Write a run's numbers, strings and truth values to results.json (nan and infinity as null); return its path."""
    for name, value in results.items():
        value = value.item() if isinstance(value, (np.generic, np.ndarray)) and value.size == 1 else value
        expect(isinstance(value, (int, float, str, type(None))), name, "a number, a string, a truth value or None", value)
        results[name] = None if isinstance(value, float) and not math.isfinite(value) else value
    path = run_directory(run_dir) / "results.json"
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(results, indent=1) + "\n")
    return path
