"""What the README's commands promise, and what holds for all files."""

import ast
import hashlib
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tokenize
import tomllib

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
import yaml

import shapeseg as ss
from conftest import ROOT, run_code

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODULES = sorted(ROOT.glob("shapeseg/*.py"))
NOTEBOOKS = sorted(ROOT.glob("notebooks/**/[!.]*.ipynb"))
README = (ROOT / "README.md").read_text()
FILES = subprocess.check_output(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, text=True).split()


def test_import_is_light_and_silent_and_changes_nothing(tmp_path, monkeypatch):
    (tmp_path / "shapeseg").mkdir(), monkeypatch.chdir(tmp_path)  # beside a folder of this name, such as the clone
    output, errors = run_code("""
assert not {"tensorflow", "keras", "matplotlib", "pandas"} & set(sys.modules)
import os, random, matplotlib, numpy as np
before = random.getstate(), np.random.get_state(), dict(matplotlib.rcParams)
ss.draw_scene()
assert not {"tensorflow", "keras"} & set(sys.modules)
for name in ss.__all__:
    getattr(ss, name)
from tensorflow.python.framework import config
assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == "1" and not config.is_op_determinism_enabled()
assert random.getstate() == before[0] and all(map(np.array_equal, np.random.get_state(), before[1]))
assert dict(matplotlib.rcParams) == before[2]""")
    assert output == errors == ""


def test_public_names_are_there_and_documented():
    names = ("SceneConfig ARTICLE CROWDED SCENE_CONFIGS CLASSES NOVEL_KINDS draw_scene draw_scenes stream build_model FAST_MODEL "
             "ARTICLE_MODEL train ARTICLE_TRAINING FAST_TRAINING evaluate predict load_model save_model show find_objects sweep "
             "macs STYLE confidence_interval match_objects mask_to_polygon overlapping_pairs class_colours").split()
    assert {*names} <= {*ss.__all__}
    assert all(getattr(ss, name) is not None for name in ss.__all__)
    for name in "SceneConfig draw_scene stream read_dataset build_model load_model predict evaluate train find_objects".split():
        assert len(getattr(ss, name).__doc__) > 300, name  # the doors that a reader calls: arguments, result, errors


def test_the_house_is_small_and_in_order():
    lines = {path.stem: len(path.read_text().splitlines()) for path in MODULES}
    assert max(lines.values()) <= 300 and sum(lines.values()) <= 2500, lines
    assert sum(len(path.read_text().splitlines()) for path in ROOT.glob("tests/*.py")) <= 2600
    order = ("backend utils augmentation figures scenes files datasets metrics layers models inference doctor training checkpoints "
             "objects coco sweeps plots").split()
    assert set(lines) == {"__init__", *order}
    for path in MODULES[1:]:  # an import points up the list (but for training's, whose checkpoints are its own)
        used = {node.module.split(".")[1] for node in ast.parse(path.read_text()).body
                if isinstance(node, ast.ImportFrom) and node.module.startswith("shapeseg.")} - {"checkpoints"}
        assert all(order.index(name) < order.index(path.stem) for name in used), (path.stem, used)
        names = {token.string for token in tokenize.tokenize(open(path, "rb").readline) if token.type == tokenize.NAME}
        assert not names & set(
            "multiply_adds hit missed slope chances way middle whole real told listed several room rooms whole_file every least "
            "greatest most depths topmost boundary interval trace SAME NEAR MOST ROOM".split()), path.name
    assert not [*ROOT.glob("data/**/*.py")]


def code_in(path, kind="code"):
    return "\n".join(cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == kind)


def imports_of(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)) and not getattr(node, "level", 0):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (name.split(".")[0] for name in names)


def names_of(requirements):
    return {re.split(r"[<>=\[;]", requirement)[0].strip().lower().replace("_", "-") for requirement in requirements}


def test_every_import_is_a_declared_dependency_and_each_of_those_is_pinned():
    extras, declared = PROJECT["optional-dependencies"], names_of(PROJECT["dependencies"])
    distributions = importlib.metadata.packages_distributions()
    own = {"shapeseg", "conftest", *(path.stem for path in ROOT.glob("tests/*.py")), *sys.stdlib_module_names}
    for path in [*MODULES, *NOTEBOOKS, *ROOT.glob("tests/*.py"), *ROOT.glob("notebooks/*.py")]:
        source = path.read_text() if path.suffix == ".py" else code_in(path)
        allowed = declared | (set() if path.parent.name == "shapeseg" else names_of(sum(extras.values(), [])))
        for name in set(imports_of(source)) - own:
            assert names_of(distributions.get(name, [name])) & allowed, f"{path.name} imports {name}"
    pinned = names_of(line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert declared | names_of(sum((extras[name] for name in ("book", "cluster", "play", "test")), [])) <= pinned
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    [pip] = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pip[0] == "-c constraints.txt" and pip[1].startswith("-e .[")  # so pyproject.toml is what conda installs
    assert f"python{PROJECT['requires-python']}" in environment["dependencies"]


def test_the_commands_and_snippets_of_make_help_and_the_readme_fit_the_repository():
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
    assert {"setup", "lessons", "test", "test-full", "lab"} <= set(targets)
    if shutil.which("make"):
        done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
        assert all(re.search(rf"make {target}\b", done.stdout) for target in targets if target != "help")
    for words in ("make lessons", "make test", "python -m venv", "pip install", "conda env create -f environment.yml", "Teach"):
        assert words in README
    for line in re.findall(r"^.*papermill .*$", README, re.M):
        for path in re.findall(r"notebooks/[\w/.]+\.ipynb", line):
            known = papermill.inspect_notebook(ROOT / path)
            assert set(re.findall(r"-p (\w+)", line)) <= set(known), line
    for path in re.findall(r"(?:notebooks|data|shapeseg|tests)/[\w/]+\.\w+", README):
        assert (ROOT / path).exists(), path
    for snippet in re.findall(r"```python\n(.*?)```", README, re.S):
        for node in ast.walk(ast.parse(snippet)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ss":
                assert node.attr in ss.__all__, node.attr


def test_links_and_pictures_are_there():
    for page in [*ROOT.glob("*.md"), *ROOT.glob("data/**/*.md"), *NOTEBOOKS]:
        text = page.read_text() if page.suffix == ".md" else code_in(page, "markdown")
        for target in re.findall(r"\]\((?!https?:|mailto:|attachment:)([^)#\s]+)\)", text):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_no_path_of_a_machine_and_no_index_address():
    for name in FILES:
        if (ROOT / name).is_file() and (ROOT / name).suffix in ("", *".py .md .ipynb .txt .toml .yml .yaml .json .csv".split()):
            text = (ROOT / name).read_text()
            assert not re.search(r"/(root|home|work|tmp)/[A-Za-z0-9_.-]+", text), name
            assert "index-url" not in text or name.startswith("tests/"), name


@pytest.mark.parametrize("name, config", [*((name, ss.ARTICLE) for name in ("article", "clean", "masks")), ("objects", ss.CROWDED)])
def test_a_reference_model_scores_what_its_card_says(name, config):
    card, model = json.loads((ROOT / f"data/models/{name}.json").read_text()), ss.load_model(name)
    content = (ROOT / f"data/models/{name}.keras").read_bytes()
    assert len(content) <= 10 * 2**20 and hashlib.sha256(content).hexdigest() == card["sha256"]
    assert name == "objects" or f"{card['iou']:.3f}" in README
    first = card["first_scenes"]  # the same numbers on fewer scenes, to be checked in little time
    scenes = [ss.draw_scene(config, 0, n, "test") for n in range(first["scenes"])]
    scores = ss.evaluate(model, [(scene.image[None], scene.masks[None]) for scene in scenes]).loc["mean"].to_dict()
    if name == "objects":
        scores |= ss.evaluate_objects(scenes, [ss.find_objects(model, scene.image)[0] for scene in scenes])
    for metric in first.keys() & scores.keys():
        assert np.isclose(scores[metric], first[metric], rtol=1e-3), metric


def test_the_samples_are_scenes_and_the_tables_have_the_fields_words_and_a_study_each():
    images, masks = ss.read_dataset(ROOT / "data/samples")
    expected = ss.draw_scenes(ss.ARTICLE, 0, range(len(images)), "test")
    assert (images == expected[0]).all() and (masks == expected[1]).all()
    studies = "".join(map(code_in, ROOT.glob("notebooks/studies/*.ipynb")))
    for path in ROOT.glob("data/*.csv"):
        table = pd.read_csv(path)
        words = {*table.columns, *table.astype(str).to_numpy().ravel()}
        assert len(table) and not {"multiply_adds", "depths", "every", "repeat"} & words
        assert path.name in studies, path.name


def test_results_are_flat_numbers_and_relative_directories_count_from_the_repository(tmp_path, monkeypatch):
    path = ss.write_results(tmp_path, iou=np.float32(0.5), nothing=float("nan"), name="masks", count=np.int64(3))
    assert json.loads(path.read_text()) == {"iou": 0.5, "nothing": None, "name": "masks", "count": 3}
    with pytest.raises(ValueError, match="^iou: expected a number"):
        ss.write_results(tmp_path, iou=np.zeros(3))
    assert json.loads(path.read_text())["iou"] == 0.5  # what was there is still there
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ss.run_directory("runs") == ROOT / "runs" and ss.run_directory("~/there") == tmp_path / "there"
    assert ss.run_directory(tmp_path / "a/b").is_dir()
    for wrong in ("", None, np.zeros(2)):
        with pytest.raises(ValueError, match="^run_dir: expected "):
            ss.run_directory(wrong)


def test_jupyterlab_keeps_to_localhost_and_its_token():
    line = re.search(r"^lab:.*\n(?:\t.*\n)*?\t\$\(BIN\)/jupyter (.*)$", (ROOT / "Makefile").read_text(), re.M)[1]
    assert "--ip localhost" in line and not re.search("token|password|allow_origin", line)
