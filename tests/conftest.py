"""What the tests share: equal settings for all processes, small things that are quick, and one finished run."""

import os

# Two workers share two cores, and runs that are compared to the bit have the same settings in every process.
for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

import shapeseg as ss

matplotlib.use("Agg")

ROOT = Path(__file__).parents[1]
CONFIG = ss.SceneConfig(size=64, figures=(1, 3), radius=(0.1, 0.25))  # draws, trains and predicts in no time
NETWORK = dict(widths=(8, 8), convolutions=1, kernels=(3,), skip="concat", patch=2, contrast=None, activation="silu",
               dropout=0.2)  # with dropout, whose random state has to be kept, too
QUICK = dict(batch_size=2, learning_rate=0.05, warmup=2, log_every=2)
SMALL = f"ss.SceneConfig(size={CONFIG.size}, figures={CONFIG.figures}, radius={CONFIG.radius})"  # for other processes

settings.register_profile("quick", max_examples=25, derandomize=True, deadline=None, database=None,
                          suppress_health_check=list(HealthCheck))
settings.register_profile("full", settings.get_profile("quick"), max_examples=200, derandomize=False, print_blob=True)


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="all notebooks at their full length, more kills, more examples")


def pytest_configure(config):
    config.addinivalue_line("markers", "full: needs minutes, gigabytes or a disk of its own; runs with --full alone")
    config.addinivalue_line("filterwarnings", "ignore:__array__ implementation doesn't accept a copy")  # Keras', pycocotools'
    settings.load_profile("full" if config.getoption("--full") else "quick")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--full"):
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("full")])
        items[:] = [item for item in items if not item.get_closest_marker("full")]
    items.sort(key=lambda item: item.path.stem != "test_notebooks")  # the longest begin first


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Each worker takes the next test; those of the chain of lessons stay together."""
    from xdist.scheduler import LoadScopeScheduling
    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return "chain" if "_chain_" in nodeid else nodeid
    config.option.loadscopereorder = False
    return Scheduling(config, log)


def random_images(*shape):
    return np.random.RandomState(0).randint(0, 256, shape).astype(np.uint8)


def damage(path, kind):
    whole = path.read_bytes()
    half = len(whole) // 2
    path.write_bytes({"emptied": b"", "swapped": b"[]", "truncated": whole[:half],
                      "flipped": whole[:half] + bytes([whole[half] ^ 1]) + whole[half + 1:]}[kind])


def weights_of(run_dir):
    return ss.load_model(run_dir / "model.keras").get_weights()


def equal(a, b):
    return all((x == y).all() for x, y in zip(a, b, strict=True))


def start(code, *arguments):
    """Another process that has imported shapeseg as ss, in a group of its own."""
    command = [sys.executable, "-c", f"import sys\nimport shapeseg as ss\n{code}", *map(str, arguments)]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run_code(code, *arguments):
    """What another process writes, and that it ends well."""
    process = start(code, *arguments)
    output, errors = process.communicate()
    assert process.returncode == 0, errors[-3000:]
    return output, errors


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A finished run of four steps: its directory, its model and its history."""
    model, run_dir = ss.build_model(**NETWORK), tmp_path_factory.mktemp("trained") / "run"
    history = ss.train(model, CONFIG, 4, run_dir, **QUICK)
    return SimpleNamespace(run_dir=run_dir, model=model, history=history)


@pytest.fixture
def run_dir(trained, tmp_path):
    """A copy of the finished run, to be spoilt."""
    return shutil.copytree(trained.run_dir, tmp_path / "run")
