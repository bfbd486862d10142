"""A grid of runs of one notebook, here or on a cluster."""

import hashlib
import itertools
import json
import re
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import nullcontext
from pathlib import Path

import filelock
import nbformat
import pandas as pd
import papermill
from tqdm import tqdm

from shapeseg.utils import ROOT, expect, resolve_path, run_directory

OWN = {"run", "error", "run_dir"}  # names that a sweep needs for itself
QUIET = ["--IPKernelApp.log_level=ERROR"]  # a run's kernel says nothing beside the bar of the sweep


def sweep(notebook, grid, run_dir, executor=None):
    """Run a notebook with every combination of a grid's values; finished runs are skipped.

    Each run is one papermill run with a directory of its own in `run_dir`: the executed notebook (executed.ipynb, or
    failed.ipynb with the error in it), the notebook's results.json, and what else it writes. Called again, a sweep runs what is
    missing, damaged or failed, and everything when the notebook's code has changed. Several sweeps may work in one directory at
    the same time, also from several machines that share it.

    Parameters
    ----------
    notebook : path, with a cell tagged "parameters" that has a `run_dir`; it calls `write_results`. A relative path counts from
        the current directory or, if it is not there, from the repository's root
    grid : dict, from a parameter's name to the list of its values: all that JSON can say
    run_dir : path; a relative one counts from the repository's root
    executor : concurrent.futures.Executor, where the runs are executed: a ProcessPoolExecutor, or ``client.get_executor()`` of a
        Dask cluster, whose machines find the repository and `run_dir` under the same paths; None for one after another, here

    Returns
    -------
    pandas.DataFrame : one row per run, in the order of the grid: "run" (its directory's name), its parameters and results, and
        "error": empty, or why it failed

    Raises FileNotFoundError if there is no such notebook, and ValueError if an argument is not as above.
    """
    paths = [resolve_path(notebook, "notebook", start).resolve() for start in (Path.cwd(), ROOT)]
    notebook = next((path for path in paths if path.is_file()), None)
    if notebook is None:
        raise FileNotFoundError(f"notebook: expected the path of a notebook, and {paths[0]} is not there")
    runs = _combinations(notebook, grid)
    expect(executor is None or hasattr(executor, "submit"), "executor", "a concurrent.futures.Executor, for example a "
           "ProcessPoolExecutor or a Dask client's get_executor()", executor)
    run_dir = run_directory(run_dir)
    missing = [name for name in runs if _results(run_dir / name) is None]
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
    rows = []
    for name, parameters in runs.items():
        results = _results(run_dir / name) or {}
        rows.append({"run": name, **parameters, **{key: results[key] for key in results if key not in {*parameters, *OWN}},
                     "error": errors[name]})
    return pd.DataFrame(rows)


def _run(notebook, parameters, directory):
    """Execute one run, unless another sweep has done it meanwhile; return its error, or nothing."""
    directory.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(directory / ".sweep.lock"):  # released when its process dies
        if _results(directory) is not None:
            return ""
        for old in ("executed.ipynb", "results.json", "failed.ipynb"):
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
            known = isinstance(error, papermill.PapermillExecutionError)
            return f"{error.ename}: {error.evalue}" if known else f"{type(error).__name__}: {error}"
        partial.rename(directory / "executed.ipynb")  # last: now it is done
        return ""


def _results(directory):
    """The results of a finished run, or None."""
    try:
        nbformat.read(directory / "executed.ipynb", 4)
        return dict(json.loads((directory / "results.json").read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, nbformat.reader.NotJSONError) as error:
        print(f"{directory}: its files are damaged ({error}); it is run again")
        return None


def _combinations(notebook, grid):
    """From a run's name to its parameters; a notebook whose code changes gives its runs other names."""
    try:
        known = papermill.inspect_notebook(notebook)
    except Exception as error:
        raise ValueError(f"notebook: expected a Jupyter notebook, got {notebook}, which could not be read "
                         f"({type(error).__name__}: {error})") from error
    expect("run_dir" in known, "notebook", 'a cell tagged "parameters" with a run_dir', notebook.name)
    expect(isinstance(grid, dict) and all(isinstance(values, (list, tuple, range)) and values for values in grid.values()),
           "grid", 'lists of values by parameter, for example {"skip": ["none", "add"], "seed": [0, 1, 2]}', grid)
    own = sorted(known.keys() - OWN)
    expect({*grid} <= {*own}, "grid", f"parameters of {notebook.name} ({', '.join(own)})", sorted({*grid} - {*own}))
    code = "".join(cell.source for cell in nbformat.read(notebook, 4).cells if cell.cell_type == "code")
    runs = {}
    for values in itertools.product(*grid.values()):
        parameters = dict(zip(grid, values))
        try:
            text = json.dumps(parameters, sort_keys=True)
        except TypeError as error:
            raise ValueError(f"grid: expected values that JSON can say (numbers, strings, truth values, None, lists), got "
                             f"{parameters}") from error
        words = ",".join(f"{name}={value}" for name, value in sorted(parameters.items()))
        readable = re.sub(r"[^\w.=,+-]+", "", words, flags=re.ASCII)
        runs[f"{readable[:80]}-{hashlib.sha256((text + code).encode()).hexdigest()[:8]}"] = parameters
    return runs
