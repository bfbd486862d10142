"""A training, and all else that is written: stopped, killed, damaged, two at once, on a full disk."""

import os
import signal
import subprocess
from contextlib import suppress

import filelock
import nbformat
import numpy as np
import pandas as pd
import pytest

import shapeseg as ss
from conftest import CONFIG, NETWORK, QUICK, SMALL, equal, run_code, start, weights_of
from shapeseg.backend import keras
from shapeseg.checkpoints import CHECKPOINT
from test_sweeps import notebook  # noqa: F401 (a fixture)

WIDE = NETWORK | dict(widths=(96, 96))  # whose checkpoints take a while to write


def interrupt(hook, number):
    """A callback that stops a run the hard way."""
    def stop(n, logs):
        if n == number:
            raise KeyboardInterrupt
    return keras.callbacks.LambdaCallback(**{hook: stop})


@pytest.mark.parametrize("hook, number", [
    ("on_train_batch_end", 0), ("on_epoch_end", 0), ("on_train_batch_begin", 1), ("on_epoch_end", 1)])
def test_the_same_cell_again_after_an_interrupt(trained, tmp_path, hook, number):
    model = ss.build_model(**NETWORK)
    with pytest.raises(KeyboardInterrupt):
        ss.train(model, CONFIG, 4, tmp_path, callbacks=[interrupt(hook, number)], **QUICK)
    assert not (tmp_path / "model.keras").exists()
    history = ss.train(model, CONFIG, 4, tmp_path, **QUICK)
    assert equal(weights_of(tmp_path), trained.model.get_weights())
    assert history.drop(columns="seconds").equals(trained.history.drop(columns="seconds"))


def wait_until(there, process):
    while not there():
        with pytest.raises(subprocess.TimeoutExpired):  # or it ended before it was killed
            process.wait(0.001)


def kill(process):
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


kills = pytest.mark.parametrize("kills", [1, pytest.param(3, marks=pytest.mark.full)])


@kills
def test_a_training_that_is_killed_ends_as_if_nothing_had_been(tmp_path, kills):
    killed, steps = tmp_path / "killed", 10 + 20 * kills
    code = f"ss.train(ss.build_model(**{WIDE!r}), {SMALL}, {steps}, sys.argv[1], **{QUICK | dict(log_every=1)!r})"
    whole, last = tmp_path / "whole", killed / CHECKPOINT
    for _ in range(kills):
        before, process = last.stat().st_mtime_ns if last.exists() else 0, start(code, killed)
        wait_until(lambda: last.exists() and last.stat().st_mtime_ns != before, process)
        wait_until(lambda: any(killed.glob(".*.partial.*")), process)  # in the middle of a file
        kill(process)
    for run_dir in (killed, whole):
        run_code(code, run_dir)
    assert equal(weights_of(killed), weights_of(whole))
    assert not any(killed.glob(".*.partial.*"))


@kills
def test_a_dataset_that_is_killed_while_it_is_written(tmp_path, kills):
    for n in range(kills):
        folder = tmp_path / f"set{n}"
        process = start(f"ss.write_dataset(sys.argv[1], {SMALL}, count=5000)", folder)
        wait_until(lambda: len(list(tmp_path.glob(f".set{n}.*/**/*.png"))) > 9 * n, process)
        kill(process)
        assert not folder.exists()
        ss.write_dataset(folder, CONFIG, count=3)
        assert (ss.read_dataset(folder)[0] == ss.draw_scenes(CONFIG, 0, range(3))[0]).all()


@kills
def test_a_sweep_that_is_killed(notebook, tmp_path, kills):  # noqa: F811
    grid = {"x": [1, 2, 3], "wait": [0.3]}
    for n in range(kills):
        run_dir = tmp_path / f"runs{n}"
        process = start(f"ss.sweep({str(notebook)!r}, {grid!r}, sys.argv[1])", run_dir)
        wait_until(lambda: len(list(run_dir.glob("*/results.json"))) > n, process)
        kill(process)
        table = ss.sweep(notebook, grid, run_dir)
        assert table.double.tolist() == [2, 4, 6] and not table.error.any()
        executed = [nbformat.read(run_dir / run / "executed.ipynb", 4) for run in table.run]
        assert all(notebook.metadata.papermill.duration for notebook in executed)  # to their end


def test_two_processes_at_once_in_one_checkout(trained, tmp_path):
    code = f"""
ss.train(ss.build_model(**{NETWORK!r}), {SMALL}, 4, sys.argv[1], **{QUICK!r})
try:
    ss.write_dataset(sys.argv[2] + "/set", {SMALL}, count=20)
except OSError:  # the other was quicker
    pass
ss.write_results(sys.argv[2], a=1)"""
    both = [start(code, tmp_path / name, tmp_path) for name in "ab"]
    assert not any(process.communicate()[1] and process.returncode for process in both)
    assert equal(weights_of(tmp_path / "a"), trained.model.get_weights())
    assert equal(weights_of(tmp_path / "b"), trained.model.get_weights())
    assert len(ss.read_dataset(tmp_path / "set")[0]) == 20
    with filelock.FileLock(tmp_path / "a/.lock"), pytest.raises(RuntimeError, match="^run_dir: another process"):
        ss.train(ss.build_model(**NETWORK), CONFIG, 4, tmp_path / "a", **QUICK)


def test_a_finished_run_is_returned_also_without_its_history_and_one_without_checkpoints_begins_anew(trained, run_dir, capsys):
    (run_dir / "history.csv").unlink()
    model = ss.build_model(**NETWORK, seed=9)
    assert ss.train(model, CONFIG, 4, run_dir, **QUICK).equals(trained.history)
    assert "already finished" in capsys.readouterr().out and equal(model.get_weights(), trained.model.get_weights())
    assert np.allclose(pd.read_csv(run_dir / "history.csv"), trained.history)  # written again
    (run_dir / CHECKPOINT).unlink()
    again = ss.train(ss.build_model(**NETWORK), CONFIG, 4, run_dir, **QUICK)
    assert again.drop(columns="seconds").equals(trained.history.drop(columns="seconds"))


@pytest.fixture
def disk(tmp_path):
    """A real one of 24 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("only root can mount a disk")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(disk):
    with open(disk / "ballast", "wb", buffering=0) as file, suppress(OSError):
        while file.write(b"0" * 4096):
            pass


@pytest.mark.full
def test_a_full_disk_leaves_what_was_there(trained, disk):
    filling = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: fill(disk))
    with pytest.raises((OSError, RuntimeError)):
        ss.train(ss.build_model(**NETWORK), CONFIG, 4, disk / "run", callbacks=[filling], **QUICK)
    (disk / "ballast").unlink()
    ss.train(ss.build_model(**NETWORK), CONFIG, 4, disk / "run", **QUICK)
    assert equal(weights_of(disk / "run"), trained.model.get_weights())
    writers = {"model.keras": lambda: ss.save_model(trained.model, disk / "model.keras"),
               "results.json": lambda: ss.write_results(disk, **{f"number_{n}": n for n in range(500)})}
    for write in writers.values():
        write()
    before = {name: (disk / name).read_bytes() for name in writers}
    fill(disk)
    for write in (*writers.values(), lambda: ss.write_dataset(disk / "set", CONFIG, count=9)):
        with pytest.raises((OSError, RuntimeError)):
            write()
    assert {name: (disk / name).read_bytes() for name in writers} == before
    assert {path.name for path in disk.iterdir()} == {"ballast", "run", *writers}
