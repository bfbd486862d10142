"""Execute the committed notebooks whose code, or the package's, has changed: make notebooks.

    .venv/bin/python notebooks/execute.py [--all] [NOTEBOOK ...]

Lessons, solutions, studies, in this order; or those whose path contains one of the given words. A
notebook's metadata keeps a hash of the code that made its outputs: while it fits, the notebook is
skipped. Each begins in an empty run directory; an older one is moved to runs/replaced.
"""

import ast
import hashlib
import os
import shutil
import sys
import time

import nbformat
import papermill
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

from shapeseg.utils import ROOT, atomic_write, resolve_path

os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")  # the kernel of this environment


def source_hash(notebook):
    """A hash of the code in a notebook and in the package."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    code += [path.read_text() for path in sorted((ROOT / "shapeseg").glob("*.py"))]
    return hashlib.sha256("\0".join(code).encode()).hexdigest()


def empty_run_directory(path):
    """A finished run would be loaded, not done again. (A study's long runs stay: it resumes them.)"""
    parameters = papermill.inspect_notebook(path)
    if "run_dir" in parameters and "repeat_runs" not in parameters:
        run_dir = resolve_path(ast.literal_eval(parameters["run_dir"]["default"]))
        replaced = ROOT / "runs/replaced" / run_dir.name
        if run_dir.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            replaced.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(run_dir, replaced)


def execute(path, notebook, code):
    """Run all cells in a new kernel, then replace the file; on an error it stays as it is."""
    NotebookClient(notebook, timeout=None, resources={"metadata": {"path": path.parent}},
                   coalesce_streams=True,  # a progress bar leaves its last line alone
                   record_timing=False, store_widget_state=False,
                   extra_arguments=["--IPKernelApp.log_level=ERROR"]).execute()
    notebook.metadata = {name: notebook.metadata[name] for name in ("kernelspec", "language_info")}
    notebook.metadata["shapeseg"] = {"source_hash": code}
    with atomic_write(path) as partial:
        partial.write_text(nbformat.writes(notebook).replace(f"{ROOT}/", "") + "\n")


def main(words, all_):
    failed = []
    folders = (ROOT / "notebooks" / name for name in ("", "solutions", "studies"))
    for path in (path for folder in folders for path in sorted(folder.glob("*.ipynb"))):
        name, notebook = str(path.relative_to(ROOT)), nbformat.read(path, 4)
        code = source_hash(notebook)
        fits = notebook.metadata.get("shapeseg", {}).get("source_hash") == code and not all_
        if fits or words and not any(word in name for word in words):
            continue
        print(name, end=": ", flush=True)
        try:
            start = time.monotonic()
            empty_run_directory(path)
            execute(path, notebook, code)
            print(f"{(time.monotonic() - start) / 60:.1f} minutes", flush=True)
        except (CellExecutionError, DeadKernelError) as error:
            print(f"failed\n{error}", flush=True)
            failed.append(name)
    return f"failed: {', '.join(failed)}" if failed else 0


if __name__ == "__main__":
    sys.exit(main([word for word in sys.argv[1:] if word != "--all"], "--all" in sys.argv))
