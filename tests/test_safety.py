"""Files and parameters from a stranger: data, never code."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest

import shapeseg as ss
from shapeseg.training import CHECKPOINTS
from test_sweeps import notebook  # noqa: F401 (a fixture)
from test_training import NETWORK, QUICK

ROOT = Path(__file__).parents[1]


@pytest.fixture
def mark(tmp_path):
    """A file that is there only if hostile code has run."""
    yield tmp_path / "mark"
    assert not (tmp_path / "mark").exists()


def change(path, member, edit):
    """Write an archive again, with one member changed."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members[member] = edit(members.get(member))
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def calling(module, name, argument):
    """The description of a model one of whose layers is a call."""
    def edit(config):
        config = json.loads(config)
        config["config"]["layers"][1] |= {"module": module, "class_name": name, "registered_name": name, "config": argument}
        return json.dumps(config)
    return edit


def huge(content):
    file = io.BytesIO(content)
    with h5py.File(file, "r+") as weights:
        names = []
        weights.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) and item.ndim == 4 else None)
        del weights[names[0]]
        weights.create_dataset(names[0], shape=(2**16, 2**16, 2**10, 2**10), dtype="f4", chunks=(1, 1, 16, 16))  # 16 PB
    return file.getvalue()


def elsewhere(target):
    def edit(content):
        file = io.BytesIO(content)
        with h5py.File(file, "r+") as weights:
            names = []
            weights.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
            shape = weights[names[0]].shape
            del weights[names[0]]
            weights[names[0]] = h5py.ExternalLink(str(target), "secret")
        with h5py.File(target, "w") as secret:
            secret["secret"] = np.full(shape, 7.0, np.float32)
        return file.getvalue()
    return edit


@pytest.mark.parametrize("member, edit", [
    ("config.json", lambda mark: calling("os", "system", {"command": f"touch {mark}"})),
    ("config.json", lambda mark: calling("builtins", "eval", {"source": f"open({str(mark)!r}, 'w')"})),
    ("config.json", lambda mark: calling("subprocess", "Popen", {"args": ["touch", str(mark)]})),
    ("config.json", lambda mark: lambda config: b"{" * 10**6),
    ("model.weights.h5", lambda mark: huge),
    ("model.weights.h5", lambda mark: elsewhere(mark.with_name("secret.h5"))),
], ids=["os.system", "eval", "Popen", "deep", "huge", "elsewhere"])
def test_a_hostile_model_is_refused(tmp_path, mark, member, edit):
    path = tmp_path / "model.keras"
    ss.save_model(ss.build_model(**NETWORK), path)
    change(path, member, edit(mark))
    with pytest.raises(ValueError, match="name: expected a .keras file that save_model wrote, got .*model.keras"):
        ss.load_model(path)


@pytest.mark.parametrize("member", ["../../evil", "assets/../../../evil"])
def test_an_archive_does_not_write_outside_of_its_folder(tmp_path, member):
    folder = tmp_path / "a/b"
    folder.mkdir(parents=True)
    ss.save_model(ss.build_model(**NETWORK), folder / "model.keras")
    change(folder / "model.keras", member, lambda _: b"evil")
    before = set(tmp_path.glob("**/*"))
    try:
        ss.load_model(folder / "model.keras")
    except ValueError:
        pass
    assert set(tmp_path.glob("**/*")) == before and not Path("/evil").exists() and not (ROOT / "evil").exists()


class Touch:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def test_a_pickle_in_a_checkpoint_is_not_opened(small, tmp_path, mark):
    ss.train(ss.build_model(**NETWORK), small, 2, tmp_path / "run", **QUICK)
    for name in CHECKPOINTS:
        with np.load(tmp_path / "run" / name) as saved:
            arrays = dict(saved)
        arrays["0"] = np.array([Touch(mark)], object)
        np.savez(tmp_path / "run" / name, **arrays)
    with pytest.raises(ValueError, match="checkpoint.* is damaged"):
        ss.train(ss.build_model(**NETWORK), small, 2, tmp_path / "run", **QUICK)


@pytest.mark.parametrize("text", [
    "x'); __import__('os').system('touch MARK') #", 'x"\nimport os\nos.system("touch MARK")', "{{7 * 7}}", "$(touch MARK)", "\\"])
def test_a_parameter_that_looks_like_code_stays_a_text(notebook, tmp_path, mark, text):  # noqa: F811
    text = text.replace("MARK", str(mark))
    command = [sys.executable, "-m", "papermill", notebook, tmp_path / "out.ipynb", "-r", "x", text, "-r", "word", text,
               "-p", "run_dir", tmp_path / "run"]
    subprocess.run(command, check=True, capture_output=True)
    assert json.loads((tmp_path / "run/results.json").read_text())["x"] == text
    table = ss.sweep(notebook, {"x": [text], "word": ["../../../evil", ".."]}, tmp_path / "runs/here")
    assert table.x.tolist() == [text, text] and {path.name for path in (tmp_path / "runs").iterdir()} == {"here"}


@pytest.mark.parametrize("content", [
    "[" * 10**5, '{"images": 1}', '{"images": [{"id": 1}], "annotations": [{"id": 1}], "categories": []}'])
def test_a_hostile_coco_file_is_named(tmp_path, content):
    (tmp_path / "coco.json").write_text(content)
    with pytest.raises(ValueError, match="path: expected a COCO dataset of instances, got .*coco.json"):
        ss.read_coco(tmp_path / "coco.json")


def test_jupyterlab_listens_on_localhost_with_its_token(tmp_path):
    line = re.search(r"^lab:.*\n\t\$\(BIN\)/jupyter (.*) \$\(ROOT_OK\)$", (ROOT / "Makefile").read_text(), re.M)[1]
    command = [sys.executable, "-m", "jupyter", *line.split(), "--no-browser", "--allow-root"]
    log = open(tmp_path / "log", "w+")
    lab = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True,
                           env=os.environ | {"JUPYTER_RUNTIME_DIR": str(tmp_path)})
    try:
        while not (found := re.search(r"http://localhost:(\d+)/lab\?token=(\w+)", (tmp_path / "log").read_text())):
            assert lab.poll() is None
            time.sleep(0.1)
        port, token = found.groups()
        listening = []
        while not listening:  # the kernel's table may be read while it changes
            assert lab.poll() is None
            listening = [c.laddr.ip for c in psutil.Process(lab.pid).net_connections() if c.status == "LISTEN"]
        assert set(listening) <= {"127.0.0.1", "::1"}
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"http://localhost:{port}/api/contents")
        assert urllib.request.urlopen(f"http://localhost:{port}/api/contents?token={token}").status == 200
    finally:
        os.killpg(lab.pid, signal.SIGTERM)
        lab.wait()
