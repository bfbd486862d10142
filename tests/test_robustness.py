"""Killed at any moment, on a full disk, with damaged files, two at once, and in bounded memory."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

import shapeseg as ss
from shapeseg.files import ROOT
from shapeseg.training import CHECKPOINTS
from test_sweeps import notebook  # noqa: F401 (a fixture)
from test_training import NETWORK, QUICK, StopAfter, equal, weights_of

SMALL = "ss.SceneConfig(size=64, figures=(1, 3), radius=(0.1, 0.25))"
WIDE = dict(NETWORK, widths=(96, 96))  # whose checkpoints take a while to write


def start(code, run_dir=""):
    code = f"import shapeseg as ss\nRUN = {str(run_dir)!r}\n{code}"
    return subprocess.Popen([sys.executable, "-c", code], start_new_session=True, cwd=ROOT)


def wait_until(there, process):
    while not there():
        assert process.poll() is None, "it ended before it was killed"
        time.sleep(0.0005)


def kill(process):
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_training_that_is_killed_ends_as_if_nothing_had_been(tmp_path, request):
    kills, chance = request.config.getoption("kills"), random.Random(0)
    killed, whole, in_a_file = tmp_path / "killed", tmp_path / "whole", 0
    steps = 20 + 40 * kills
    code = f"ss.train(ss.build_model(**{WIDE!r}), {SMALL}, {steps}, RUN, **{dict(QUICK, every=1)!r})"
    for n in range(kills):
        before, process = checkpoint_time(killed), start(code, killed)
        wait_until(lambda: checkpoint_time(killed) != before, process)
        if n % 2:  # while a checkpoint is being written
            wait_until(lambda: any(killed.glob(".checkpoint.*")), process)
        else:  # while it draws, computes or writes
            time.sleep(chance.uniform(0, 0.5))
        kill(process)
        in_a_file += any(killed.glob(".*.partial.*"))
    for folder in (killed, whole):
        assert start(code, folder).wait() == 0
    print(f"killed {kills} times, {in_a_file} times in the middle of a file")
    assert in_a_file and equal(weights_of(killed), weights_of(whole))
    assert not any(killed.glob(".*.partial.*"))


def checkpoint_time(run_dir):
    path = run_dir / CHECKPOINTS[0]
    return path.stat().st_mtime_ns if path.exists() else None


def test_a_dataset_that_is_killed_while_it_is_written(tmp_path, small):
    for n in range(3):
        folder = tmp_path / f"set{n}"
        process = start(f"ss.write_dataset(RUN, {SMALL}, count=5000)", folder)
        wait_until(lambda: len(list(tmp_path.glob(f".set{n}.*/**/*.png"))) > 9 * n, process)
        kill(process)
        assert not folder.exists()
        ss.write_dataset(folder, small, count=3)
        assert (ss.read_dataset(folder)[0] == ss.draw_scenes(small, 0, range(3))[0]).all()


def test_a_sweep_that_is_killed(notebook, tmp_path):  # noqa: F811
    grid = {"x": [1, 2, 3], "wait": [0.3]}
    for n in range(3):
        run_dir = tmp_path / f"runs{n}"
        process = start(f"ss.sweep({str(notebook)!r}, {grid!r}, RUN)", run_dir)
        wait_until(lambda: len(list(run_dir.glob("*/begun.txt"))) > n, process)
        kill(process)
        table = ss.sweep(notebook, grid, run_dir)
        assert table.double.tolist() == [2, 4, 6] and not table.error.any()


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
    with open(disk / "ballast", "wb", buffering=0) as file:
        try:
            while file.write(b"0" * 4096):
                pass
        except OSError:
            return disk / "ballast"


def test_training_on_a_disk_that_fills_up(small, tmp_path, disk):
    class Fill(StopAfter):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == self.epoch:
                fill(disk)

    ss.train(ss.build_model(**NETWORK), small, 8, tmp_path / "whole", **QUICK)
    with pytest.raises(OSError, match=r"the disk is full: .* MB needed.*run.checkpoint\.npz"):
        ss.train(ss.build_model(**NETWORK), small, 8, disk / "run", callbacks=[Fill(1)], **QUICK)
    (disk / "ballast").unlink()
    history = ss.train(ss.build_model(**NETWORK), small, 8, disk / "run", **QUICK)
    assert history.step.tolist() == [2, 4, 6, 8] and equal(weights_of(tmp_path / "whole"), weights_of(disk / "run"))


def test_files_on_a_full_disk(small, disk):
    model = ss.build_model(**NETWORK)
    scenes = [ss.draw_scene(small, 0, n) for n in range(40)]
    writers = {"model.keras": lambda: ss.save_model(model, disk / "model.keras"),
               "results.json": lambda: ss.write_results(disk, **{f"number_{n}": n for n in range(500)}),
               "coco.json": lambda: ss.write_coco(disk / "coco.json", [scene.figures for scene in scenes], (64, 64))}
    for write in writers.values():
        write()
    before = {name: (disk / name).read_bytes() for name in writers}
    ballast = fill(disk)
    for name, write in (writers | {"set": lambda: ss.write_dataset(disk / "set", small, count=9)}).items():
        with pytest.raises(OSError, match=f"the disk is full: .*{name}"):
            write()
    assert {name: (disk / name).read_bytes() for name in writers} == before
    assert {path.name for path in disk.iterdir()} == {ballast.name, *writers}


def flipped(whole, chance):
    changed = bytearray(whole)
    changed[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
    return bytes(changed)


DAMAGE = {"emptied": lambda whole, chance: b"", "truncated": lambda whole, chance: whole[:chance.randrange(len(whole))],
          "flipped": flipped, "swapped": lambda whole, chance: b"[]"}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_told_and_the_one_before_it_taken(small, tmp_path, damage, capsys):
    ss.train(ss.build_model(**NETWORK), small, 4, tmp_path / "whole", **QUICK)
    ss.train(ss.build_model(**NETWORK), small, 4, tmp_path / "damaged", **QUICK)
    path = tmp_path / "damaged" / CHECKPOINTS[0]
    path.write_bytes(DAMAGE[damage](path.read_bytes(), random.Random(1)))
    (tmp_path / "damaged/model.keras").unlink()
    history = ss.train(ss.build_model(**NETWORK), small, 4, tmp_path / "damaged", **QUICK)
    assert f"{path} is damaged" in capsys.readouterr().out
    assert history.step.tolist() == [2, 4] and equal(weights_of(tmp_path / "whole"), weights_of(tmp_path / "damaged"))


def test_a_checkpoint_of_another_run_is_not_taken(small, tmp_path, capsys):
    for seed in (0, 1):
        ss.train(ss.build_model(**NETWORK), small, 4, tmp_path / str(seed), seed=seed, **QUICK)
    for name in CHECKPOINTS:
        (tmp_path / "0" / name).write_bytes((tmp_path / "1" / name).read_bytes())
    with pytest.raises(ValueError, match="is damaged or of another run .* delete .* and train again"):
        ss.train(ss.build_model(**NETWORK), small, 4, tmp_path / "0", **QUICK)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_model_is_named(tmp_path, damage):
    model, path, chance = ss.build_model(**NETWORK), tmp_path / "model.keras", random.Random(2)
    ss.save_model(model, path)
    whole, refused = path.read_bytes(), 0
    for _ in range(8):
        path.write_bytes(DAMAGE[damage](whole, chance))
        try:  # a bit of what nothing depends on, such as a file's date, may change
            assert equal(ss.load_model(path).get_weights(), model.get_weights()) and damage == "flipped"
        except ValueError as error:
            refused += str(path) in str(error)
    assert refused >= 6


def test_a_reference_model_is_the_one_that_its_card_describes(tmp_path, monkeypatch):
    monkeypatch.setattr("shapeseg.inference.MODELS", tmp_path)
    for name in ("masks.json", "masks.keras", "objects.keras"):
        shutil.copy(ROOT / "data/models" / name, tmp_path)
    ss.load_model("masks")
    os.replace(tmp_path / "objects.keras", tmp_path / "masks.keras")
    with pytest.raises(ValueError, match="masks.keras, .*it is not the model that its card describes"):
        ss.load_model("masks")


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["results.json", "executed.ipynb", "done.json"])
def test_a_run_of_a_sweep_that_is_damaged_runs_again(notebook, tmp_path, name, damage, capsys):  # noqa: F811
    table = ss.sweep(notebook, {"x": [5]}, tmp_path)
    path = tmp_path / table.run[0] / name
    path.write_bytes(DAMAGE[damage](path.read_bytes(), random.Random(3)))
    assert ss.sweep(notebook, {"x": [5]}, tmp_path).equals(table)
    assert f"{path.parent}: its files are not as its run left them" in capsys.readouterr().out
    assert json.loads((path.parent / "results.json").read_text())["double"] == 10


def test_two_runs_at_once_in_one_checkout(tmp_path):
    code = f"""
ss.train(ss.build_model(**{NETWORK!r}), {SMALL}, 4, RUN, **{QUICK!r})
try:
    ss.write_dataset(RUN + "/../set", {SMALL}, count=20)
except FileExistsError:
    pass
ss.write_results(RUN + "/..", a=1)"""
    both = [start(code, tmp_path / name) for name in "ab"]
    assert [process.wait() for process in both] == [0, 0]
    assert equal(weights_of(tmp_path / "a"), weights_of(tmp_path / "b"))
    assert len(ss.read_dataset(tmp_path / "set")[0]) == 20


@pytest.mark.parametrize("code", [
    "ss.predict(ss.load_model('masks'), __import__('numpy').zeros((1, 8192, 8192, 1), 'uint8'))",
    """model = ss.build_model(**ss.FAST_MODEL, seed=1)
ss.train(model, ss.ARTICLE, 8, RUN, **ss.FAST_TRAINING)
ss.evaluate(model, ss.stream(ss.ARTICLE, count=32, split='test'))""",
    """import matplotlib, nbformat
matplotlib.use("Agg")
cells = [cell.source for cell in nbformat.read("notebooks/07_overlapping_objects.ipynb", 4).cells if cell.cell_type == "code"]
for source in cells[:3]:
    exec(source)
found, network = {}, reference
for part in ("held_out =", "predicted.append", "scores = {name", "np.stack(predicted)"):
    exec(next(source for source in cells[3:] if part in source))""",
], ids=["predict", "train and evaluate", "find objects in 300 scenes"])
@pytest.mark.skipif(sys.platform != "linux", reason="the peak stands in /proc")
def test_memory_stays_under_4_gib(tmp_path, code):
    copy = "import shutil\nshutil.copyfile('/proc/self/status', RUN + '/status')"
    assert start(f"{code}\n{copy}", tmp_path).wait() == 0
    # The peak of this process alone: what getrusage tells includes that of the process that started it.
    assert int(re.search(r"VmHWM:\s+(\d+) kB", (tmp_path / "status").read_text())[1]) < 4 * 2**20
