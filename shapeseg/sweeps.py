"""A grid of runs of one notebook, here or on a cluster."""

import hashlib
import itertools
import json
import math
import re
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed
from contextlib import nullcontext
from pathlib import Path

import filelock
import nbformat
import pandas as pd
import papermill
from tqdm import tqdm

from shapeseg.checks import expect, told
from shapeseg.files import ROOT, checksum, find_path, run_directory, whole_file

WRITTEN = ("executed.ipynb", "results.json")
MOST = 10**5  # runs of one sweep
OWN = {"run", "error", "run_dir"}  # names that a sweep needs for itself
QUIET = ["--IPKernelApp.log_level=ERROR"]  # a run's kernel says nothing beside the bar of the sweep


def sweep(notebook, grid, run_dir, executor=None):
    """Run a notebook with every combination of a grid's values; what is done is not repeated.

    Each run is one papermill run with a directory of its own in `run_dir`: the executed notebook
    (executed.ipynb, or failed.ipynb with the error in it), the notebook's results.json, and what
    else it writes. A run is done when its notebook has come to its end and its results are there;
    their checksums are in done.json. Called again, a sweep does what is missing or damaged since, and
    tries again what failed. Several sweeps may work
    in one directory at the same time, also from several machines that share it.

    Parameters
    ----------
    notebook : path
        With a cell tagged "parameters" that has a `run_dir`; it calls `write_results`. A relative
        path counts from the current directory or, if it is not there, from the repository's root.
    grid : dict
        From a parameter's name to the list of its values: all that JSON can say. At most 100000 runs.
    run_dir : path
        A relative one counts from the repository's root.
    executor : concurrent.futures.Executor, optional
        Where the runs are executed: a ProcessPoolExecutor, or ``client.get_executor()`` of a Dask
        cluster, whose machines find the repository and `run_dir` under the same paths. Without it
        they are executed here, one after another.

    Returns
    -------
    pandas.DataFrame
        One row a run, in the order of the grid: "run" (its directory's name), its parameters, its
        results, and "error": empty, or why it failed.

    Raises
    ------
    FileNotFoundError
        If there is no such notebook.
    ValueError
        If an argument is not as above, or `run_dir` holds runs of other code.
    """
    notebook = _find(notebook)
    runs = _combinations(notebook, grid)
    expect(isinstance(executor, Executor | None), "executor", "a concurrent.futures.Executor, for example a "
           "ProcessPoolExecutor or a Dask client's get_executor()", executor)
    run_dir = run_directory(run_dir)
    _claim(run_dir, notebook)
    missing = [name for name in runs if not _done(run_dir / name)]
    errors = dict.fromkeys(runs, "")
    with (ThreadPoolExecutor(1) if executor is None else nullcontext(executor)) as pool, \
            tqdm(total=len(runs), initial=len(runs) - len(missing), desc="runs") as bar:
        futures = {pool.submit(_run, notebook, runs[name], run_dir / name): name for name in missing}
        try:
            for future in as_completed(futures):
                try:
                    error = future.result()
                except Exception as lost:  # not the notebook's error: the worker is gone
                    error = f"{type(lost).__name__}: {lost}"
                errors[futures[future]] = error
                bar.update(not error)
                bar.set_postfix(failed=sum(map(bool, errors.values())))
        finally:
            for future in futures:
                future.cancel()
    return pd.DataFrame([{"run": name, **parameters, **_results(run_dir / name, parameters), "error": errors[name]}
                         for name, parameters in runs.items()])


def _run(notebook, parameters, directory):
    """Execute one run, unless another sweep has done it meanwhile. Its error, or nothing."""
    directory.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(directory / ".sweep.lock"):  # let go of when its process dies
        if _done(directory):
            return ""
        for old in ("done.json", *WRITTEN, "failed.ipynb"):
            (directory / old).unlink(missing_ok=True)
        partial = directory / "partial.ipynb"
        try:
            papermill.execute_notebook(notebook, partial, parameters | {"run_dir": str(directory)},
                                       cwd=directory, progress_bar=False, extra_arguments=QUIET)
            if not (directory / "results.json").exists():
                raise ValueError(f"results.json: expected {notebook.name} to write it with write_results(run_dir, …)")
        except Exception as error:
            if partial.exists():
                partial.rename(directory / "failed.ipynb")
            if isinstance(error, papermill.PapermillExecutionError):
                return f"{error.ename}: {error.evalue}"
            return f"{type(error).__name__}: {error}"
        partial.rename(directory / "executed.ipynb")
        with whole_file(directory / "done.json") as partial:
            partial.write_text(json.dumps(_checksums(directory), indent=1) + "\n")
        return ""


def _done(directory):
    if not (directory / "done.json").exists():
        return False
    try:
        if json.loads((directory / "done.json").read_text()) == _checksums(directory):
            return True
    except (OSError, ValueError):
        pass
    print(f"{directory}: its files are not as its run left them; it is run again")
    return False


def _checksums(directory):
    return {name: checksum(directory / name) for name in WRITTEN}


def _results(directory, parameters):
    """What the notebook wrote, less the parameters that it wrote once more."""
    if not _done(directory):
        return {}
    results = json.loads((directory / "results.json").read_text())
    return {name: value for name, value in results.items() if name not in {*parameters, *OWN}}


def _find(notebook):
    for start in (Path(), ROOT):
        path = find_path(notebook, "notebook", start)
        if path.is_file():
            return path.resolve()
    raise FileNotFoundError(f"notebook: expected the path of a notebook, got {told(notebook)}, which is neither here "
                            f"nor in {ROOT}")


def _combinations(notebook, grid):
    """From a run's name to its parameters."""
    try:
        known = papermill.inspect_notebook(notebook)
    except Exception as error:
        raise ValueError(f"notebook: expected a Jupyter notebook, got {notebook}, which could not be read "
                         f"({type(error).__name__}: {error})") from error
    if "run_dir" not in known:
        raise ValueError(f"notebook: expected a cell tagged \"parameters\" with a run_dir, and {notebook.name} has none")
    expect(isinstance(grid, dict) and all(isinstance(values, (list, tuple, range)) and values for values in grid.values()),
           "grid", 'lists of values by parameter, for example {"skip": ["none", "add"], "seed": [0, 1, 2]}', grid)
    expect(math.prod(len(values[:MOST + 1]) for values in grid.values()) <= MOST, "grid", f"at most {MOST} runs", grid)
    for name in grid:
        if name not in known or name in OWN:
            own = ", ".join(sorted(known.keys() - OWN))
            raise ValueError(f"grid: expected parameters of {notebook.name} ({own}), got {told(name)}")
    runs = {}
    for values in itertools.product(*grid.values()):
        parameters = dict(zip(grid, values))
        try:
            text = json.dumps(parameters, sort_keys=True)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"grid: expected values that JSON can say (numbers, texts, truth values, None, lists), "
                             f"got {told(parameters)}") from error
        words = ",".join(f"{name}={value}" for name, value in sorted(parameters.items()))
        readable = re.sub(r"[^\w.=,+-]+", "", words, flags=re.ASCII)
        runs[f"{readable[:80]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"] = parameters
    return runs


def _claim(run_dir, notebook):
    """One directory, one notebook: its code must be what the runs in it were made with."""
    cells = nbformat.read(notebook, as_version=4).cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    claim = {"notebook": notebook.name, "code": hashlib.sha256(code.encode()).hexdigest()}
    path = run_dir / "sweep.json"
    with filelock.FileLock(run_dir / ".sweep.lock"):
        if not path.exists():
            with whole_file(path) as partial:
                partial.write_text(json.dumps(claim, indent=1) + "\n")
        try:
            claimed = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path}: expected the name of the notebook whose runs are there, but it cannot be read "
                             f"({error}); delete this file if they are those of {notebook.name}") from error
        if claimed != claim:
            raise ValueError(f"run_dir: {run_dir} holds runs of other code than {notebook.name} has now; give another "
                             "run_dir, or delete this one")
