"""What the README's commands promise, and the small files beside the notebooks."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

import shapeseg as ss

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_import_is_light():
    code = "import sys, shapeseg as ss; ss.draw_scene(); assert not {'tensorflow', 'keras'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_are_there():
    for name in ss.__all__:
        assert getattr(ss, name) is not None
    for name in ("SceneConfig ARTICLE SCENE_CONFIGS CLASSES NOVEL_KINDS draw_scene draw_scenes stream build_model "
                 "ARTICLE_MODEL FAST_MODEL train ARTICLE_TRAINING FAST_TRAINING evaluate predict load_model save_model "
                 "show find_objects CROWDED sweep").split():
        assert name in ss.__all__


def test_public_functions_are_documented():
    for name in ss.__all__:
        value = getattr(ss, name)
        if callable(value):
            assert value.__doc__ and len(value.__doc__) > 40, name


def test_a_foreign_tensorflow_gets_one_clear_sentence(tmp_path):
    (tmp_path / "tensorflow.py").write_text("raise ImportError('no symbol')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import shapeseg as ss; ss.build_model"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "TensorFlow could not be imported" in done.stderr and "pip install -e . -c constraints.txt" in done.stderr


def test_tensorflow_is_set_up_for_the_machine():
    code = ("import os; from shapeseg.backend import tf; assert os.environ['TF_ENABLE_ONEDNN_OPTS'] == '1'; "
            "from tensorflow.python.framework import config; assert config.is_op_determinism_enabled()")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""


def test_one_list_of_dependencies():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert pip == ["-c constraints.txt", "-e .[cluster]"]  # so pyproject.toml is what conda installs
    assert f"python{PROJECT['requires-python']}" in environment["dependencies"]
    pinned = {re.split("==", line)[0].lower().replace("_", "-")
              for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    extras = PROJECT["optional-dependencies"]
    for requirement in PROJECT["dependencies"] + extras["cluster"]:
        assert re.split("[<>=]", requirement)[0].lower().replace("_", "-") in pinned
    assert extras["gpu"] == ["tensorflow[and-cuda]"]


@pytest.mark.parametrize("target", ["setup", "lessons", "test", "test-full", "lab"])
def test_make_help_lists(target):
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"make {target} " in done.stdout


def test_the_readme_shows_the_commands():
    readme = (ROOT / "README.md").read_text()
    for words in ("make lessons", "make test", "python -m venv", "pip install", "conda env create -f environment.yml",
                  "papermill notebooks/03_training.ipynb out.ipynb -p", "notebooks/quick.yaml", "Teach"):
        assert words in readme


PAGES = [*ROOT.glob("*.md"), *ROOT.glob("data/**/*.md"), *ROOT.glob("notebooks/**/[0-9]*.ipynb")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_pictures_are_there(page):
    text = page.read_text()
    if page.suffix == ".ipynb":
        text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown")
    for target in re.findall(r"\]\((?!https?:)([^)#\s]+)\)", text):
        assert (page.parent / target).exists(), target


def test_sample_pairs_are_what_the_card_says():
    images, masks = ss.read_dataset(ROOT / "data/samples")
    expected = ss.draw_scenes(ss.ARTICLE, 0, range(len(images)), "test")
    assert (images == expected[0]).all() and (masks == expected[1]).all()


def test_the_reference_model_scores_what_its_card_says():
    card = json.loads((ROOT / "data/models/masks.json").read_text())
    assert (ROOT / "data/models/masks.keras").stat().st_size <= 8 * 2**20
    readme = (ROOT / "README.md").read_text()
    assert f"| {card['iou']:.3f} |" in readme and f"| {card['accuracy']:.2%} |" in readme
    first = card["first_scenes"]  # the same numbers on fewer scenes, to be checked in little time
    table = ss.evaluate(ss.load_model("masks"), ss.stream(ss.ARTICLE, 0, count=first["scenes"], split="test"))
    for metric in ("bce", "mse", "accuracy", "iou", "dice"):
        assert np.isclose(table.loc["mean", metric], first[metric], rtol=1e-2), metric


def test_the_model_that_finds_objects_scores_what_its_card_says():
    card = json.loads((ROOT / "data/models/objects.json").read_text())
    assert (ROOT / "data/models/objects.keras").stat().st_size <= 8 * 2**20
    model, first = ss.load_model("objects"), card["first_scenes"]
    scenes = [ss.draw_scene(ss.CROWDED, 0, n, "test") for n in range(first["scenes"])]
    table = ss.evaluate(model, [(scene.image[None], scene.masks[None]) for scene in scenes])
    assert np.isclose(table.loc["mean", "iou"], first["iou"], rtol=1e-2)
    scores = ss.evaluate_objects(scenes, [ss.find_objects(model, scene.image)[0] for scene in scenes])
    for name, score in scores.items():
        assert np.isclose(score, first[name], atol=0.02), name


def test_results_are_flat_numbers(tmp_path):
    path = ss.write_results(tmp_path, iou=np.float32(0.5), nothing=float("nan"), name="masks")
    assert json.loads(path.read_text()) == {"iou": 0.5, "nothing": None, "name": "masks"}
    for wrong in ([1, 2], np.zeros(3), {"a": 1}):
        with pytest.raises(ValueError, match="iou: expected a number"):
            ss.write_results(tmp_path, iou=wrong)
    assert json.loads(path.read_text())["iou"] == 0.5  # what was there is still there


def test_no_path_of_a_machine_and_no_index_address():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    for name in files:
        if Path(name).suffix in (".py", ".md", ".ipynb", ".txt", ".toml", ".yml", ".yaml", ".json", ""):
            text = (ROOT / name).read_text()
            assert not re.search(r"/(root|home|work|tmp)/[A-Za-z0-9_.-]+", text), name
            assert "index-url" not in text or name.startswith("tests/"), name


def test_the_runs_of_the_ablations_are_those_of_their_grids(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "data")
    import ablations

    runs, curves = pd.read_csv(ablations.RUNS), pd.read_csv(ablations.CURVES)
    for study, grids in ablations.GRIDS.items():
        wanted = sum(np.prod([len(values) for values in grid.values()]) for grid in grids)
        names = runs[runs.study == study].run
        assert len(names) == names.nunique() == wanted
        assert set(curves[curves.study == study].run) == set(names)
    assert runs.groupby("study").seed.nunique().eq(len(ablations.SEEDS)).all()
    measured = runs[["iou", "boundary_iou", "mse", "iou_overlap", "iou_small", "parameters", "multiply_adds"]]
    assert measured.notna().all(axis=None) and (measured >= 0).all(axis=None)
