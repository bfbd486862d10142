"""The notebooks as tests: papermill runs the lessons with small values, nbval runs notebooks again and compares."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import matplotlib.pyplot as plt
import nbformat
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import shapeseg as ss
from conftest import ROOT

NOTEBOOKS = ROOT / "notebooks"
LESSONS = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
SOLUTIONS = sorted(NOTEBOOKS.glob("solutions/*.ipynb"))
ALL = LESSONS + SOLUTIONS + sorted(NOTEBOOKS.glob("studies/*.ipynb"))
CHAIN, FURTHER = LESSONS[:5], LESSONS[5:]  # `make lessons` runs the first
PAPERMILL = [sys.executable, "-m", "papermill", "-f", NOTEBOOKS / "quick.yaml"]


def each(name, paths, quick=ALL):
    """A test per notebook; those that are not quick are run with --full alone."""
    params = [pytest.param(path, marks=() if path in quick else pytest.mark.full) for path in paths]
    return pytest.mark.parametrize(name, params, ids=[str(path.relative_to(NOTEBOOKS).with_suffix("")) for path in paths])


def run(command, **options):
    done = subprocess.run(command, env=os.environ | {"JUPYTER_PREFER_ENV_PATH": "1"}, capture_output=True, text=True, **options)
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return done


def make_lessons(runs):
    if not shutil.which("make"):
        pytest.skip("there is no make here")
    return run(["make", "lessons", f"BIN={os.path.dirname(sys.executable)}", f"RUNS={runs}", "-o", ".venv/ready",
                "OPTIONS=-f notebooks/quick.yaml"], cwd=ROOT).stdout


def nbval(path):
    run([sys.executable, *"-m pytest -q -p no:cacheprovider -p no:xdist --nbval --nbval-kernel-name python3".split(),
         "--nbval-cell-timeout", "3600", "--rootdir", path.parent, "-c", os.devnull, path])


def repeats_itself(copy, run_dir):
    """Papermill's copy, run again on the same machine: here the last digits are compared, too."""
    notebook = nbformat.read(copy, 4)
    for cell in notebook.cells:
        if cell.metadata.get("reason") == "arithmetic" and "seconds" not in cell.source:
            cell.metadata["tags"].remove("nbval-ignore-output")
    again = copy.with_name(f"{copy.stem}_again.ipynb")
    nbformat.write(notebook, again)
    shutil.rmtree(run_dir)  # train anew
    nbval(again)


def results_of(run_dir):
    results = json.loads((run_dir / "results.json").read_text())
    assert results and not any(isinstance(value, (dict, list)) for value in results.values())
    return results


@pytest.fixture(scope="session")
def chain(tmp_path_factory):
    """`make lessons` with small values, in a directory of its own."""
    runs = tmp_path_factory.mktemp("lessons")
    return runs, make_lessons(runs)


def test_the_chain_leaves_results_a_model_and_pages_and_does_no_work_twice(chain):
    runs, printed = chain
    results = {lesson.stem: results_of(runs / lesson.stem) for lesson in CHAIN}
    assert [*results] == ["00_first_look", "01_dataset", "02_model", "03_training", "04_evaluation"]
    for lesson in CHAIN:
        html = (runs / f"{lesson.stem}.html").read_text()
        assert len(html) > 100_000 and not re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=.?https?:[^>]*", html)
    assert "the article" in printed and "mean IoU" in printed
    assert results["04_evaluation"]["model"].endswith("03_training/masks/model.keras")  # the one that lesson 3 trained
    assert results["03_training"]["by_hand_agrees"] is True and results["03_training"]["resumed_equals"] is True
    assert results["03_training"]["steps"] == yaml.safe_load((NOTEBOOKS / "quick.yaml").read_text())["steps"]
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()}
    make_lessons(runs)
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()} == before


@each("lesson", CHAIN, quick=CHAIN[3:4])
def test_a_lesson_of_the_chain_repeats_itself(chain, lesson):
    repeats_itself(chain[0] / lesson.name, chain[0] / lesson.stem)


@each("lesson", FURTHER)
def test_a_further_lesson_runs(lesson, tmp_path, request):
    run([*PAPERMILL, lesson, tmp_path / lesson.name, "-p", "run_dir", tmp_path / lesson.stem])
    results_of(tmp_path / lesson.stem)
    if request.config.getoption("--full"):
        repeats_itself(tmp_path / lesson.name, tmp_path / lesson.stem)


def test_lesson_4_takes_the_channels_and_classes_that_a_model_was_trained_on(tmp_path):
    config = ss.SceneConfig(size=128, channels=3, classes=("quad",), kinds=("quad",))
    ss.train(ss.build_model(classes=1, channels=3, widths=(4, 8)), config, 1, tmp_path)
    run([*PAPERMILL, CHAIN[4], tmp_path / "04.ipynb", "-p", "run_dir", tmp_path, "-p", "model", tmp_path / "model.keras"])
    assert [name for name in results_of(tmp_path) if name[4:] in ss.CLASSES] == ["iou_quad"]


def test_lesson_9_takes_a_readers_folder(tmp_path):
    folder = ss.write_dataset(tmp_path / "set", replace(ss.SCENE_CONFIGS["single"], size=128), count=5)
    for path in folder.glob("**/00001.png"):  # one is of another size
        Image.open(path).resize((300, 200)).save(path)
    run([*PAPERMILL, LESSONS[9], tmp_path / "09.ipynb", *f"-p classes quad -p longest 96 -p folder {folder} -p run_dir {tmp_path}/run".split()])
    assert results_of(tmp_path / "run")["images"] == 5 and Image.open(tmp_path / "run/predicted/00001.png").size == (300, 200)


@each("path", ALL, quick=CHAIN[1:2])
def test_committed_outputs_come_out_again(path):
    nbval(path)


def text_of(path, kind):
    """All prose of a notebook, or all text that its cells print, on one line."""
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == kind]
    parts = [cell.source for cell in cells] if kind == "markdown" else [
        output.get("text") or output.get("data", {}).get("text/plain", "") for cell in cells for output in cell.outputs]
    return " ".join(" ".join(parts).split())


@pytest.mark.parametrize("claim", yaml.safe_load((ROOT / "tests/claims.yaml").read_text(encoding="utf-8")), ids=lambda claim: claim[1][:50])
def test_a_sentence_about_a_result_is_what_the_committed_run_shows(claim):
    """Each number that the first pattern finds in the prose is, rounded as there, what the second finds in the outputs."""
    lesson, says, shows = claim
    path = NOTEBOOKS / f"{lesson}.ipynb"
    said, shown = re.search(says, text_of(path, "markdown")), re.search(shows, text_of(path, "code"))
    assert said and shown, f"{path.name}: not found: {says if not said else shows}"
    assert len(said.groups()) == len(shown.groups())
    for told, value in zip(said.groups(), shown.groups()):
        digits = len(told.partition(".")[2])
        assert abs(float(told) - float(value)) <= 0.5001 * 10**-digits, f"{told} in the prose, {value} in the outputs: {says}"


def without_docstrings(source):
    """The code of each function and class of a module, as `ss.show` shows it."""
    lines = source.splitlines(keepends=True)
    for node in ast.parse(source).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            first, last = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1, node.end_lineno
            doc = node.body[0] if ast.get_docstring(node) else None
            yield "".join(lines[first:doc.lineno - 1] + lines[doc.end_lineno:last] if doc else lines[first:last]).rstrip()


def code_of(path):
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


@each("path", ALL)
def test_a_notebook_is_what_a_notebook_is(path):
    notebook, code = nbformat.read(path, 4), code_of(path)
    nbformat.validate(notebook)
    assert sum("parameters" in cell.metadata.get("tags", ()) for cell in code) == 1
    for cell in code:
        tags = cell.metadata.get("tags", ())
        assert not cell.source.rstrip().endswith(";") and "sys.path" not in cell.source
        assert max(map(len, cell.source.splitlines()), default=0) <= 100, max(cell.source.splitlines(), key=len)
        assert "nbval-skip" not in tags
        assert ("nbval-ignore-output" in tags) == (cell.metadata.get("reason") in ("progress", "time", "arithmetic"))
    if path in LESSONS:
        text = "".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown").lower()
        for words in ("question", "at the end", "minute", "what we saw", "exercises", "one step further"):
            assert words in text, words


@each("path", ALL)
def test_committed_outputs_are_those_of_one_run_of_todays_code(path):
    code = code_of(path)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)
    known = {part for module in ROOT.glob("shapeseg/*.py") for part in without_docstrings(module.read_text())}
    for output in (output for cell in code for output in cell.outputs):
        shown = re.fullmatch(r"```python\n(.*)```", output.get("data", {}).get("text/markdown", ""), re.S)
        assert shown is None or shown[1].rstrip() in known, shown[1]


def test_each_lesson_has_its_solutions_and_the_small_values_are_parameters():
    assert [path.name for path in LESSONS] == [path.name for path in SOLUTIONS]
    parameters = {name for path in ALL for name in parameters_of(path)}
    assert set(yaml.safe_load((NOTEBOOKS / "quick.yaml").read_text())) <= parameters
    assert all("run_dir" in parameters_of(path) for path in LESSONS)


def parameters_of(path):
    defaults = {}
    exec(next(cell.source for cell in code_of(path) if "parameters" in cell.metadata.get("tags", ())), {}, defaults)
    return defaults


wrong_values = st.sampled_from([
    0, -1, 1, 3, 2.5, 10**9, float("nan"), "", "5", "many", None, True, [], [1], ["none"], [0.5, "a"], {}, (1, 2), "none"])


@each("path", LESSONS)
def test_a_notebook_names_the_parameter_that_is_wrong(path):
    """The code from its parameters to the last check of them is run with other values, as papermill would."""
    code, defaults, imported = code_of(path), parameters_of(path), {}
    place = next(n for n, cell in enumerate(code) if "parameters" in cell.metadata.get("tags", ()))
    lines = ast.parse("\n".join(cell.source for cell in code[place + 1:place + 3])).body
    last = max(n for n, line in enumerate(lines) if re.search("check_parameters|find_objects", ast.unparse(line)))
    checks = "\n".join(map(ast.unparse, lines[:last + 1]))
    with plt.rc_context():
        exec(code[0].source, imported)
    assert all(f"{name}=" in checks or f"={name}" in checks for name in defaults)
    @given(st.sampled_from(sorted(defaults)), wrong_values)
    def check(name, value):
        try:
            exec(checks, imported | defaults | {name: value})
        except (ValueError, FileNotFoundError) as error:
            assert re.match(f"({name}|name): expected ", str(error)), error
    exec(checks, imported | defaults)
    check()
