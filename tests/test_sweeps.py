import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest

import shapeseg as ss
from shapeseg.files import ROOT

CODE = """
import os, time
import shapeseg as ss
directory = ss.run_directory(run_dir)
with open(directory / "begun.txt", "a") as file:
    file.write(f"{os.getpid()} {os.getppid()}\\n")
time.sleep(wait)
if x == bad:
    raise ArithmeticError(f"{x} is bad")
with open(directory / "ended.txt", "a") as file:
    file.write("ended\\n")
ss.write_results(run_dir, double=2 * x, x=x)
"""


@pytest.fixture
def notebook(tmp_path):
    return write(tmp_path / "study.ipynb", "x = 1\nword = 'a'\nbad = None\nwait = 0\nrun_dir = 'runs/study'", CODE)


def write(path, parameters, code):
    cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(code)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    return path


def lines(table, run_dir, name):
    return [len((run_dir / run / name).read_text().splitlines()) for run in table.run]


def test_a_table_of_parameters_and_results(notebook, tmp_path):
    table = ss.sweep(notebook, {"word": ["a", "b/c"], "x": [1, 2]}, tmp_path / "runs")
    assert table.drop(columns="run").values.tolist() == [["a", 1, 2, ""], ["a", 2, 4, ""],
                                                         ["b/c", 1, 2, ""], ["b/c", 2, 4, ""]]
    assert list(table) == ["run", "word", "x", "double", "error"]
    assert ss.sweep(notebook, {"x": [1, 2], "word": ["a", "b/c"]}, tmp_path / "runs").run.tolist() == table.run[[0, 2, 1, 3]].tolist()
    for run in table.run:
        assert (tmp_path / "runs" / run / "executed.ipynb").exists() and "/" not in run


def test_only_what_is_missing_runs(notebook, tmp_path):
    ss.sweep(notebook, {"x": [1]}, tmp_path / "runs")
    table = ss.sweep(notebook, {"x": [1, 2]}, tmp_path / "runs")
    assert lines(table, tmp_path / "runs", "begun.txt") == [1, 1]
    (tmp_path / "runs" / table.run[1] / "results.json").unlink()  # not whole: it counts as missing
    table = ss.sweep(notebook, {"x": [1, 2]}, tmp_path / "runs")
    assert lines(table, tmp_path / "runs", "begun.txt") == [1, 2] and table.double.tolist() == [2, 4]


def test_a_failed_run_is_told_and_the_others_go_on(notebook, tmp_path):
    grid = {"x": [1, 2, 3], "bad": [2]}
    table = ss.sweep(notebook, grid, tmp_path / "runs")
    assert table.error.tolist() == ["", "ArithmeticError: 2 is bad", ""]
    assert table.double.isna().tolist() == [False, True, False]
    failed = tmp_path / "runs" / table.run[1]
    assert "2 is bad" in (failed / "failed.ipynb").read_text() and not (failed / "executed.ipynb").exists()
    again = ss.sweep(notebook, grid, tmp_path / "runs")
    assert lines(again, tmp_path / "runs", "begun.txt") == [1, 2, 1] and again.equals(table)


def test_what_an_earlier_run_left_does_not_make_a_failed_one_done(tmp_path):
    code = "import os\nimport shapeseg as ss\nss.write_results(run_dir, y=1)\nif os.path.exists(run_dir + '/bad'):\n    1 / 0"
    notebook = write(tmp_path / "late.ipynb", "x = 1\nrun_dir = ''", code)  # it fails after it has written
    directory = tmp_path / "runs" / ss.sweep(notebook, {"x": [1]}, tmp_path / "runs").run[0]
    (directory / "results.json").unlink()
    (directory / "bad").touch()
    for _ in range(2):
        assert "ZeroDivisionError" in ss.sweep(notebook, {"x": [1]}, tmp_path / "runs").error[0]


def test_a_notebook_without_results(tmp_path):
    notebook = write(tmp_path / "silent.ipynb", "x = 1\nrun_dir = ''", "x")
    table = ss.sweep(notebook, {"x": [1]}, tmp_path / "runs")
    assert "results.json: expected silent.ipynb to write it" in table.error[0]


def test_two_sweeps_at_once_do_no_run_twice(notebook, tmp_path):
    tables, grid = [], {"x": [1, 2, 3], "wait": [0.5]}
    sweeps = [threading.Thread(target=lambda: tables.append(ss.sweep(notebook, grid, tmp_path / "runs")))
              for _ in range(2)]
    for thread in sweeps:
        thread.start()
    for thread in sweeps:
        thread.join()
    assert tables[0].equals(tables[1]) and tables[0].error.eq("").all()
    assert lines(tables[0], tmp_path / "runs", "begun.txt") == [1, 1, 1]


def test_a_process_pool(notebook, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # workers elsewhere; a relative run_dir still counts from the root
    run_dir = os.path.relpath(tmp_path / "runs", ROOT)
    with ProcessPoolExecutor(2) as pool:
        table = ss.sweep(notebook.name, {"x": [1, 2, 3]}, run_dir, pool)
    assert table.double.tolist() == [2, 4, 6] and table.error.eq("").all()
    workers = {(tmp_path / "runs" / run / "begun.txt").read_text().split()[1] for run in table.run}
    assert str(os.getpid()) not in workers


def test_a_dask_cluster_that_loses_a_worker(notebook, tmp_path):
    from distributed import Client, LocalCluster

    grid, run_dir = {"x": [1, 2, 3, 4], "wait": [4], "bad": [3]}, tmp_path / "runs"
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None,
                      local_directory=tmp_path / "dask") as cluster, Client(cluster) as client:
        with ThreadPoolExecutor(1) as pool:
            table = pool.submit(ss.sweep, notebook, grid, run_dir, client.get_executor())
            while not (begun := [text for path in run_dir.glob("*/begun.txt") if (text := path.read_text())]):
                assert not table.done(), table.result()
            os.kill(int(begun[0].split()[1]), signal.SIGKILL)  # the worker, in the middle of a run
            table = table.result()
    assert table.error.tolist() == ["", "", "ArithmeticError: 3 is bad", ""]
    done = table[table.error == ""]
    assert done.double.tolist() == [2, 4, 8]
    assert lines(done, run_dir, "ended.txt") == [1, 1, 1]  # nothing lost, nothing to its end twice
    assert sum(lines(table, run_dir, "begun.txt")) == 5  # the run that was killed began once more


def test_wrong_arguments(notebook, tmp_path):
    for wrong, words in [
        (dict(notebook="none.ipynb"), "notebook: expected the path of a notebook, got 'none.ipynb'"),
        (dict(grid={"run_dir": ["a"]}), "grid: expected parameters of study.ipynb .*, got 'run_dir'"),
        (dict(grid={"y": [1]}), "grid: expected parameters of study.ipynb \\(bad, wait, word, x\\), got 'y'"),
        (dict(grid={"run_dir": ["a"]}), "got 'run_dir'"), (dict(grid={"x": 1}), "grid: expected lists of values"),
        (dict(grid={"x": []}), "grid: expected lists"), (dict(grid={"x": [Path()]}), "values that JSON can say"),
        (dict(executor=2), "executor: expected a concurrent.futures.Executor"),
    ]:
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            ss.sweep(**dict(notebook=notebook, grid={"x": [1]}, run_dir=tmp_path / "runs") | wrong)
    assert not (tmp_path / "runs").exists()
    plain = write(tmp_path / "plain.ipynb", "x = 1", "x")
    with pytest.raises(ValueError, match="tagged \"parameters\" with a run_dir, and plain.ipynb has none"):
        ss.sweep(plain, {"x": [1]}, tmp_path / "runs")


def test_runs_of_other_code_are_not_mixed(notebook, tmp_path):
    ss.sweep(notebook, {"x": [1]}, tmp_path / "runs")
    write(notebook, "x = 1\nrun_dir = ''", "x")
    with pytest.raises(ValueError, match="holds runs of other code than study.ipynb has now"):
        ss.sweep(notebook, {"x": [1]}, tmp_path / "runs")
