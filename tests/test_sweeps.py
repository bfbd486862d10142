import os
import signal
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import nbformat
import pytest

import shapeseg as ss
from conftest import ROOT

CODE = """
import os, time
import shapeseg as ss
directory = ss.run_directory(run_dir)
with open(directory / "begun.txt", "a") as file:
    file.write(f"{os.getpid()} {os.getppid()}\\n")
ss.write_results(run_dir, double=2 * x, x=x, said=word)
time.sleep(wait)
if x == bad:
    raise ArithmeticError(f"{x} is bad")
with open(directory / "ended.txt", "a") as file:
    file.write("ended\\n")
"""


def write(path, parameters, code):
    cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(code)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    return path


@pytest.fixture
def notebook(tmp_path):
    parameters = "x = 1\nword = 'a'  # said\nbad = None\nwait = 0\nrun_dir = 'runs/study'"
    return write(tmp_path / "study.ipynb", parameters, CODE)


def lines(table, run_dir, name):
    return [len((run_dir / run / name).read_text().splitlines()) for run in table.run]


def test_a_table_of_parameters_and_results_and_only_what_is_missing_runs(notebook, tmp_path):
    run_dir, text = tmp_path / "runs", "../{{b}}\"'); open('mark', 'w') #\nopen('mark', 'w')"  # no code and no path
    table = ss.sweep(notebook, {"word": ["a", text], "x": [1]}, run_dir)
    assert list(table) == ["run", "word", "x", "double", "said", "error"]
    assert table.drop(columns="run").values.tolist() == [["a", 1, 2, "a", ""], [text, 1, 2, text, ""]]
    assert all((run_dir / run / "executed.ipynb").exists() and "/" not in run for run in table.run)
    assert not [*tmp_path.rglob("mark")]
    (run_dir / table.run[1] / "results.json").unlink()  # its run counts as missing
    again = ss.sweep(notebook, {"x": [1, 2], "word": [text, "a"]}, run_dir)
    assert again.double.tolist() == [2, 2, 4, 4] and again.run[:2].tolist() == table.run[::-1].tolist()
    assert lines(again, run_dir, "begun.txt") == [2, 1, 1, 1]


def test_a_failed_run_is_reported_and_the_others_go_on(notebook, tmp_path):
    run_dir, grid = tmp_path / "runs", {"x": [1, 2, 3], "bad": [2]}
    table = ss.sweep(notebook, grid, run_dir)
    assert table.error.tolist() == ["", "ArithmeticError: 2 is bad", ""]
    assert table.double.isna().tolist() == [False, True, False]
    failed = run_dir / table.run[1]
    assert "2 is bad" in (failed / "failed.ipynb").read_text() and not (failed / "executed.ipynb").exists()
    again = ss.sweep(notebook, grid, run_dir)
    assert lines(again, run_dir, "begun.txt") == [1, 2, 1] and again.equals(table)


def test_a_run_that_fails_late_or_writes_no_results_is_not_done(tmp_path):
    code = "if not os.path.exists('again'):\n    ss.write_results(run_dir, y=1)\n    open('again', 'w')\n    1 / 0"
    notebook = write(tmp_path / "late.ipynb", "import os\nimport shapeseg as ss\nx = 1\nrun_dir = ''", code)
    for expected in ("ZeroDivisionError", "results.json: expected ", "results.json: expected "):
        assert expected in ss.sweep(notebook, {"x": [0]}, tmp_path / "runs").error[0]


def test_two_sweeps_at_once_do_no_run_twice(notebook, tmp_path):
    with ThreadPoolExecutor(2) as pool:
        tables = list(pool.map(lambda _: ss.sweep(notebook, {"x": [1, 2, 3], "wait": [0.5]}, tmp_path / "runs"), range(2)))
    assert tables[0].equals(tables[1]) and tables[0].error.eq("").all()
    assert lines(tables[0], tmp_path / "runs", "begun.txt") == [1, 1, 1]


def test_a_process_pool_elsewhere(notebook, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # workers elsewhere; a relative run_dir still counts from the root
    with ProcessPoolExecutor(2) as pool:
        table = ss.sweep(notebook.name, {"x": [1, 2]}, os.path.relpath(tmp_path / "runs", ROOT), pool)
    assert table.double.tolist() == [2, 4] and table.error.eq("").all()
    workers = {(tmp_path / "runs" / run / "begun.txt").read_text().split()[1] for run in table.run}
    assert str(os.getpid()) not in workers


def test_a_run_without_its_results_or_whose_code_has_changed_runs_again(notebook, tmp_path):
    table = ss.sweep(notebook, {"x": [5]}, tmp_path / "runs")
    for name in ("results.json", "executed.ipynb"):
        (tmp_path / "runs" / table.run[0] / name).unlink()
        assert ss.sweep(notebook, {"x": [5]}, tmp_path / "runs").equals(table)
    write(notebook, "x = 1\nrun_dir = ''", "import shapeseg as ss\nss.write_results(run_dir, triple=3 * x)")
    changed = ss.sweep(notebook, {"x": [5]}, tmp_path / "runs")
    assert changed.triple.tolist() == [15] and changed.run[0] != table.run[0]


@pytest.mark.full
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
