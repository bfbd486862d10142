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


def sweep(notebook, grid, run_dir, executor=None):
    """Run a notebook with every combination of a grid's values, by papermill; finished runs are skipped.

    The notebook, a path from the current directory or else the repository's root, has a cell tagged "parameters" with a `run_dir`
    and calls `write_results`; `grid` has a list of values per parameter, all that JSON can say. Each run has a directory of its own
    in `run_dir`: executed.ipynb, or failed.ipynb with the error in it, results.json, and what else it writes. Called again, a sweep
    runs what is missing or failed, and everything when the notebook's code has changed; several may work in one `run_dir`.
    `executor` is a ProcessPoolExecutor, for example, or ``client.get_executor()`` of a Dask cluster whose machines have the same
    paths; None: one run after another, here. Returns a DataFrame, a row per run: "run", its directory's name, its parameters and
    results, and "error", empty or why it failed. Raises FileNotFoundError, ValueError.
    """
    paths = [resolve_path(notebook, "notebook", start).resolve() for start in (Path.cwd(), ROOT)]
    notebook = next(filter(Path.is_file, paths), paths[0])
    code = "".join(cell.source for cell in nbformat.read(notebook, 4).cells if cell.cell_type == "code")
    known = {*papermill.inspect_notebook(notebook)}
    expect("run_dir" in known, "notebook", 'a cell tagged "parameters" with a run_dir', notebook.name)
    known -= {"run", "error", "run_dir"}  # names that a sweep needs for itself
    expect({*grid} <= known, "grid", f"parameters of {notebook.name} ({', '.join(sorted(known))})", [*grid])
    good = all(isinstance(values, (list, tuple, range)) and values for values in grid.values())
    expect(good, "grid", 'lists of values by parameter, for example {"skip": ["none", "add"], "seed": [0, 1, 2]}', grid)
    runs = {}
    for values in itertools.product(*grid.values()):
        parameters = json.loads(json.dumps(dict(zip(grid, values))))
        words = ",".join(f"{name}={value}" for name, value in sorted(parameters.items()))
        digest = hashlib.sha256((json.dumps(parameters, sort_keys=True) + code).encode()).hexdigest()[:8]  # other code, other runs
        runs[f"{re.sub('[^a-zA-Z0-9_.=,+-]+', '', words)[:80]}-{digest}"] = parameters
    run_dir, errors = run_directory(run_dir), dict.fromkeys(runs, "")
    missing = [name for name in runs if _results(run_dir / name) is None]
    with (ThreadPoolExecutor(1) if executor is None else nullcontext(executor)) as pool, \
            tqdm(total=len(runs), initial=len(runs) - len(missing), desc="runs") as bar:
        futures = {pool.submit(_run, notebook, runs[name], run_dir / name): name for name in missing}
        try:
            for future in as_completed(futures):
                lost = future.exception()  # not the notebook's error: the worker is gone
                errors[futures[future]] = error = f"{type(lost).__name__}: {lost}" if lost else future.result()
                bar.update(not error)
        finally:
            for future in futures:
                future.cancel()
    table = pd.DataFrame([{"run": name} | parameters for name, parameters in runs.items()])
    results = pd.DataFrame([_results(run_dir / name) or {} for name in runs])
    return table.join(results.drop(columns=[*table, "error", "run_dir"], errors="ignore")).assign(error=errors.values())


def _run(notebook, parameters, directory):
    """Execute one run, unless another sweep has done it meanwhile; return its error, or nothing."""
    directory.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(directory / ".sweep.lock"):  # released when its process dies
        if _results(directory) is not None:
            return ""
        for old in ("executed.ipynb", "results.json", "failed.ipynb"):
            (directory / old).unlink(missing_ok=True)
        partial = directory / "partial.ipynb"
        try:  # the kernel says nothing beside the bar of the sweep
            papermill.execute_notebook(notebook, partial, parameters | {"run_dir": str(directory)}, cwd=directory,
                                       progress_bar=False, extra_arguments=["--IPKernelApp.log_level=ERROR"])
            if not (directory / "results.json").exists():
                raise ValueError(f"results.json: expected {notebook.name} to write it with write_results(run_dir, …)")
        except Exception as error:
            if partial.exists():
                partial.rename(directory / "failed.ipynb")
            return f"{getattr(error, 'ename', type(error).__name__)}: {getattr(error, 'evalue', error)}"  # a cell's own error
        partial.rename(directory / "executed.ipynb")  # last: now it is done
        return ""


def _results(directory):
    done, results = directory / "executed.ipynb", directory / "results.json"
    return json.loads(results.read_text()) if done.exists() and results.exists() else None
