"""The lessons as tests: papermill runs them as a chain, nbval runs them again and compares."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "notebooks"
LESSONS = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
SOLUTIONS = sorted(NOTEBOOKS.glob("solutions/*.ipynb"))
CHAIN = LESSONS[:4]  # what `make lessons` runs
ONE_RUN = NOTEBOOKS / "one_run.ipynb"  # what lessons 5 and 6 sweep
LONG = {"03_training", "04_evaluation", "05_skip_connections", "06_sigmoid_or_softmax", "07_overlapping_objects", "08_speed"}  # minutes at their defaults: compared as papermill's copy
ENVIRONMENT = {**os.environ, "JUPYTER_PREFER_ENV_PATH": "1"}


@pytest.fixture(scope="session")
def chain(tmp_path_factory):
    """`make lessons` with small values, in a folder of its own, and the lessons that go further."""
    runs = tmp_path_factory.mktemp("lessons")
    bin_ = Path(sys.executable).parent
    command = ["make", "lessons", f"BIN={bin_}", f"RUNS={runs}", "OPTIONS=-f notebooks/quick.yaml",
               "-o", ".venv/ready"]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for lesson in LESSONS[len(CHAIN):]:
        command = [bin_ / "papermill", "-f", "notebooks/quick.yaml", lesson, runs / lesson.name, "-p", "run_dir",
                   runs / lesson.stem]
        further = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
        assert further.returncode == 0, further.stderr
    return runs, done.stdout


def nbval(path):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval", "--nbval-kernel-name",
               "python3", "--rootdir", str(path.parent), "-c", os.devnull, str(path)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)


def test_the_chain_leaves_results_models_and_pages(chain):
    runs, printed = chain
    for lesson in LESSONS:
        results = json.loads((runs / lesson.stem / "results.json").read_text())
        assert results and not any(isinstance(value, (dict, list)) for value in results.values())
    for lesson in CHAIN:
        assert (runs / f"{lesson.stem}.html").stat().st_size > 100_000
    assert (runs / "03_training/masks/model.keras").exists()
    assert "the article" in printed and "mean IoU" in printed


def test_the_chain_evaluates_the_model_that_it_trained(chain):
    runs, _ = chain
    assert json.loads((runs / "04_evaluation/results.json").read_text())["model"].endswith(
        "03_training/masks/model.keras")


def test_the_training_lesson_keeps_its_promises(chain):
    results = json.loads((chain[0] / "03_training/results.json").read_text())
    assert results["by_hand_agrees"] is True and results["resumed_equals"] is True
    assert results["steps"] == 6  # a preset fills only what was left open


def test_a_second_call_does_no_work_twice(chain):
    runs, _ = chain
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()}
    subprocess.run(["make", "lessons", f"BIN={Path(sys.executable).parent}", f"RUNS={runs}", "-o", ".venv/ready"],
                   cwd=ROOT, env=ENVIRONMENT, check=True, capture_output=True)
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("lesson", [path for path in LESSONS + SOLUTIONS if path.stem not in LONG or path in SOLUTIONS],
                         ids=lambda path: str(path.relative_to(NOTEBOOKS)))
def test_committed_outputs_come_out_again(lesson):
    done = nbval(lesson)
    assert done.returncode == 0, done.stdout[-5000:]


@pytest.mark.parametrize("lesson", sorted(LONG))
def test_a_long_lesson_repeats_itself(chain, lesson):
    """Papermill's copy, run again on the same machine: here the last digits are compared, too."""
    runs, _ = chain
    copy = runs / f"{lesson}_again.ipynb"
    notebook = nbformat.read(runs / f"{lesson}.ipynb", 4)
    for cell in notebook.cells:
        if cell.metadata.get("reason") == "arithmetic" and "seconds" not in cell.source:
            cell.metadata["tags"].remove("nbval-ignore-output")
    nbformat.write(notebook, copy)
    kept = runs / "kept"
    shutil.copytree(runs / lesson, kept)
    shutil.rmtree(runs / lesson)  # train anew
    try:
        done = nbval(copy)
        assert done.returncode == 0, done.stdout[-5000:]
    finally:
        shutil.rmtree(runs / lesson, ignore_errors=True)
        kept.rename(runs / lesson)
        copy.unlink()


def test_no_notebook_is_skipped():
    assert [path.stem for path in CHAIN] == ["01_dataset", "02_model", "03_training", "04_evaluation"]
    assert [path.name for path in LESSONS] == [path.name for path in SOLUTIONS]
    assert LONG <= {path.stem for path in LESSONS}


@pytest.mark.parametrize("path", LESSONS + SOLUTIONS + [ONE_RUN], ids=lambda path: str(path.relative_to(NOTEBOOKS)))
def test_a_notebook_is_what_a_notebook_is(path):
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    tags = [tag for cell in code for tag in cell.metadata.get("tags", [])]
    assert tags.count("parameters") == 1
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))  # one real run
    for cell in code:
        assert not cell.source.rstrip().endswith(";")
        assert cell.metadata.get("tags", []).count("nbval-skip") == 0
        ignored = "nbval-ignore-output" in cell.metadata.get("tags", [])
        assert ignored == (cell.metadata.get("reason") in ("progress", "time", "arithmetic"))
        assert not any(output.output_type == "error" for output in cell.outputs)
        for output in cell.outputs:  # what ss.show shows is the code as it is
            shown = re.findall(r"^```python\n(.*)```$", output.get("data", {}).get("text/markdown", ""), re.S)
            assert all(any(code in room.read_text() for room in [*ROOT.glob("shapeseg/*.py"), *ROOT.glob("data/*.py")]) for code in shown)
    assert str(ROOT) not in path.read_text()
    if path in LESSONS:
        text = "".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
        for words in ("question", "at the end", "minute", "what we saw", "exercises", "one step further"):
            assert words in text.lower(), words


@pytest.mark.parametrize("spoil", [
    lambda cell: cell.update(source="1 / 0"),
    lambda cell: cell.outputs[0].update(text="41\n"),
], ids=["a broken cell", "a changed number"])
def test_nbval_notices(tmp_path, spoil):
    """The net itself holds: a good notebook passes, a spoilt one fails."""
    output = nbformat.v4.new_output("stream", name="stdout", text="42\n")
    cell = nbformat.v4.new_code_cell("print(6 * 7)", outputs=[output], execution_count=1)
    notebook = nbformat.v4.new_notebook(cells=[cell])
    path = tmp_path / "notebook.ipynb"
    nbformat.write(notebook, path)
    assert nbval(path).returncode == 0
    spoil(cell)
    nbformat.write(notebook, path)
    assert nbval(path).returncode != 0
