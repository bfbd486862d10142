"""Whatever a function is given: the right answer, or an error that begins with the argument's name."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import shapeseg as ss
from conftest import CONFIG, NETWORK, ROOT
from shapeseg.backend import keras

SCENE = ss.draw_scene(CONFIG)
IMAGES, MASKS = ss.draw_scenes(CONFIG, 0, range(2))
MODEL, RAYS = (ss.build_model(**NETWORK | dict(widths=(8,), rays=rays)) for rays in (0, 8))
P, COUNTS = np.full(MASKS.shape, 0.5), ss.Counts().add(np.full(MASKS.shape, 0.5), MASKS)
OBJECT = ss.Object("quad", 0.5, (9, 9), np.array([(4.0, 4), (4, 12), (12, 8)]))

arrays = hnp.arrays(st.sampled_from(["?", "u1", "u2", "i8", "f2", "f4", "f8"]), hnp.array_shapes(min_dims=0, max_dims=5, min_side=1, max_side=4),
                    elements=dict(min_value=0, max_value=1))
DOORS = {  # a function of one array, which arrays are good, and what an error may name
    "predict": (lambda a: ss.predict(MODEL, a), lambda a: a.dtype == np.uint8 and a.ndim == 4 and a.shape[3] == 1 and a.size, "images"),
    "find_objects": (lambda a: ss.find_objects(RAYS, a), lambda a: a.dtype == np.uint8 and a.ndim == 3 and a.shape[2] == 1 and a.size,
                     "image|images"),
    "evaluate": (lambda a: ss.evaluate(MODEL, [(IMAGES, a)]), lambda a: False, "masks|batches"),
    "images of a stream": (lambda a: next(iter(ss.stream((a, np.zeros((*a.shape[:3], 2), bool)), batch_size=2))),
                           lambda a: a.dtype == np.uint8 and a.ndim == 4 and a.size, "images|masks"),
    "masks of a stream": (lambda a: next(iter(ss.stream((np.zeros((*a.shape[:3], 1), np.uint8), a), batch_size=2))),
                          lambda a: a.dtype == bool and a.ndim == 4 and a.size, "images|masks"),
    "compose": (lambda a: ss.compose(a, classes=list("abcd")[:a.shape[-1]]), lambda a: a.dtype.kind in "bf" and a.ndim == 3 and a.shape[2],
                "masks|classes"),
    "iou": (lambda a: ss.iou(a, a), lambda a: a.dtype == bool and a.ndim == 4, "predicted|truth"),
    "Counts": (lambda a: ss.Counts().add(a, np.zeros(a.shape, bool)), lambda a: a.dtype.kind == "f" and a.ndim == 4, "probabilities|truth"),
    "mask_to_polygon": (lambda a: ss.mask_to_polygon(a > 0), lambda a: a.ndim == 2 and a.any(), "mask"),
    "confidence_interval": (ss.confidence_interval, lambda a: a.ndim == 1 and a.size, "values"),
    "fill": (ss.fill, lambda a: a.ndim == 2 and a.shape[1] == 2 and len(a) >= 3, "vertices"),
}


@pytest.mark.parametrize("door", DOORS)
@given(array=arrays)
def test_an_array_of_any_kind_is_welcome_or_named(door, array):
    call, good, names = DOORS[door]
    if array.ndim == 0 and door in ("compose", "confidence_interval"):
        return
    try:
        call(array)
        assert good(array)
    except ValueError as error:
        assert not good(array) and str(error).split(":")[0] in names.split("|"), error


@pytest.mark.parametrize("name, call", [
    *((name, lambda path, one=dict([(name, value)]): ss.draw_scene(**dict(config=CONFIG) | one))
      for name, values in dict(seed=[-1, 1.5, "1"], index=[-1, None], split=["dev"], config=["article"]).items() for value in values),
    ("kind", lambda path: ss.outline("blob", np.random.RandomState(0))), ("vertices", lambda path: ss.fill(np.full((3, 2), np.nan))),
    ("indices", lambda path: ss.draw_scenes(CONFIG, 0, [0.5])), ("batch_size", lambda path: ss.stream(CONFIG, batch_size=0)),
    ("batch_size", lambda path: ss.stream(CONFIG, batch_size="2")), ("start", lambda path: ss.stream(CONFIG, start=-1)),
    ("count", lambda path: ss.stream(CONFIG, count=2.5)), ("seed", lambda path: ss.stream((IMAGES, MASKS), seed=-1)),
    ("dataset_size", lambda path: ss.stream(CONFIG, dataset_size=0)), ("data", lambda path: ss.stream("article")),
    ("masks", lambda path: ss.stream((IMAGES, MASKS[:1]))), ("count", lambda path: ss.write_dataset(path, CONFIG, count=0)),
    ("config", lambda path: ss.write_dataset(path, "article")),
    *(("classes", lambda path, classes=classes: ss.read_dataset(ROOT / "data/samples", classes))
      for classes in (["../images"], ["circle", "circle"], [], "circle")),
    ("threshold", lambda path: ss.Counts("0.5")), ("truth", lambda path: COUNTS.add(P[..., :2], MASKS[..., :2])),
    ("classes", lambda path: COUNTS.table(["a"])), ("batches", lambda path: ss.Counts().table(["a"])),
    ("probabilities", lambda path: ss.Counts().add(P * np.nan, MASKS)), ("probabilities", lambda path: ss.Counts().add(P * 3, MASKS)),
    ("probabilities", lambda path: COUNTS.add(P, MASKS[:1])), ("predicted", lambda path: ss.iou(MASKS, MASKS[:1])),
    ("image", lambda path: ss.compose(MASKS[0], IMAGES[0] / 255)), ("image", lambda path: ss.compose(MASKS[0], IMAGES[0, :5])),
    ("model", lambda path: ss.predict(None, IMAGES)), ("model", lambda path: ss.macs(keras.Sequential(), 16)),
    ("batches", lambda path: ss.evaluate(MODEL, ss.stream(CONFIG))), ("batches", lambda path: ss.evaluate(MODEL, (IMAGES, MASKS))),
    ("batches", lambda path: ss.evaluate(MODEL, [])), ("batches", lambda path: ss.evaluate(MODEL, [(IMAGES, MASKS[..., :2])])),
    ("classes", lambda path: ss.evaluate(MODEL, [(IMAGES, MASKS)], classes=["a"])),
    ("threshold", lambda path: ss.evaluate(MODEL, [(IMAGES, MASKS)], threshold=50)), ("path", lambda path: ss.save_model(MODEL, path / "model.h5")),
    ("model", lambda path: ss.find_objects(MODEL, IMAGES[0])), ("threshold", lambda path: ss.find_objects(RAYS, IMAGES[0], 1.5)),
    ("classes", lambda path: ss.find_objects(RAYS, IMAGES[0], classes=["a"])),
    ("form", lambda path: ss.write_coco(path / "a.json", [[OBJECT]], (64, 64), "mask")),
    ("shape", lambda path: ss.write_coco(path / "a.json", [[OBJECT]], 64)),
    ("objects", lambda path: ss.write_coco(path / "a.json", [[OBJECT]], (64, 64), classes=["circle"])),
    ("objects", lambda path: ss.write_coco(path / "a.json", [SCENE.figures], (64, 64), results=True)),
    ("path", lambda path: ss.read_coco(path / "none.json")), ("objects", lambda path: ss.evaluate_objects([SCENE], [])), ("scenes", lambda path: ss.evaluate_objects([], [])),
    *((name, lambda path, one=dict([(name, value)]): ss.train(**dict(model=MODEL, data=CONFIG, steps=2, run_dir=path / "run") | one))
      for name, values in dict(
          steps=[0, 2.5, "5"], batch_size=[0], learning_rate=[float("nan"), "0.1"], optimizer=["sgd"], schedule=["step"], warmup=[-1],
          weight_decay=[-1], dataset_size=[0], seed=[-1], log_every=[0], validation=[IMAGES], model=[keras.Sequential()], callbacks=[[print]],
          data=["folder", replace(CONFIG, channels=3), (IMAGES, MASKS[..., :2])]).items() for value in values),
    ("images", lambda path: ss.train(MODEL, (IMAGES / 255, MASKS), 2, path / "run")),
    ("masks", lambda path: ss.train(MODEL, (IMAGES, P), 2, path / "run")),
    ("data", lambda path: ss.train(RAYS, (IMAGES, MASKS), 2, path / "run")),
    ("grid", lambda path: ss.sweep("notebooks/01_dataset.ipynb", {"run_dir": ["a"]}, path / "run")),
    ("grid", lambda path: ss.sweep("notebooks/01_dataset.ipynb", {"y": [1]}, path / "run")),
    *(("grid", lambda path, values=values: ss.sweep("notebooks/01_dataset.ipynb", {"size": values}, path / "run"))
      for values in (1, [], [Path()])),
    ("executor", lambda path: ss.sweep("notebooks/01_dataset.ipynb", {"size": [64]}, path / "run", executor=2)),
    ("notebook", lambda path: ss.sweep("README.md", {"size": [64]}, path / "run")),
    ("notebook", lambda path: ss.sweep("none.ipynb", {"size": [64]}, path / "run")),
])
def test_a_wrong_argument_is_named_and_nothing_is_written(name, call, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=f"^{name}\\b.*: expected "):
        call(tmp_path)
    assert not [*tmp_path.iterdir()]
