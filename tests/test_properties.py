"""Whatever a function is given: the right answer, or an error that begins with the argument's name."""

import re
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

shapes = hnp.array_shapes(min_dims=1, max_dims=5, max_side=4)
arrays = hnp.arrays(st.sampled_from("? u1 u2 i8 f2 f4 f8".split()), shapes, elements=dict(min_value=0, max_value=1))
DOORS = {  # a function of one array, which arrays are good, and what an error may name
    "predict": (lambda a: ss.predict(MODEL, a), lambda a: a.dtype == np.uint8 and a.ndim == 4 and a.shape[3] == 1, "images"),
    "find_objects": (lambda a: ss.find_objects(RAYS, a), lambda a: a.dtype == "u1" and a.ndim == 3 and a.shape[2] == 1, "images?"),
    "evaluate": (lambda a: ss.evaluate(MODEL, [(IMAGES, a)]), lambda a: False, "masks|batches"),
    "images of a stream": (lambda a: [*ss.stream((a, np.zeros((*a.shape[:3], 2), bool)), count=2)],
                           lambda a: a.dtype == np.uint8 and a.ndim == 4, "images|masks"),
    "masks of a stream": (lambda a: [*ss.stream((np.zeros((*a.shape[:3], 1), np.uint8), a), count=2)],
                          lambda a: a.dtype == bool and a.ndim == 4, "images|masks"),
    "compose": (lambda a: ss.compose(a, classes=[*"abcd"][:a.shape[-1]]), lambda a: a.dtype.kind in "bf" and a.ndim == 3, "masks"),
    "iou": (lambda a: ss.iou(a, a), lambda a: a.dtype == bool and a.ndim == 4, "predicted|truth"),
    "Counts": (lambda a: ss.Counts().add(a, a > 0), lambda a: a.dtype.kind == "f" and a.ndim == 4, "probabilities|truth"),
    "mask_to_polygon": (lambda a: ss.mask_to_polygon(a > 0), lambda a: a.ndim == 2 and a.any(), "mask"),
    "confidence_interval": (ss.confidence_interval, lambda a: a.ndim == 1, "values"),
    "fill": (ss.fill, lambda a: a.ndim == 2 and a.shape[1] == 2 and len(a) >= 3, "vertices"),
}


@pytest.mark.parametrize("door", DOORS)
@given(array=arrays)
def test_an_array_of_any_kind_is_welcome_or_named(door, array):
    call, good, names = DOORS[door]
    try:
        call(array)
        assert good(array)
    except ValueError as error:
        assert not good(array) and re.match(f"({names}): ", str(error)), error


def wrong(call, *arguments, **values):
    """A case per wrong value of each argument."""
    return [(name, lambda path, one={name: value}: call(*arguments, **one)) for name, wrong in values.items() for value in wrong]


def train(**changed):
    return lambda path: ss.train(**dict(model=MODEL, data=CONFIG, steps=2, run_dir=path / "run") | changed)


def sweep(**changed):
    return lambda path: ss.sweep(**dict(notebook="notebooks/01_dataset.ipynb", grid={"size": [64]}, run_dir=path / "run") | changed)


def coco(objects=([OBJECT],), shape=(64, 64), **options):
    return lambda path: ss.write_coco(path / "a.json", objects, shape, **options)


@pytest.mark.parametrize("name, call", [
    *wrong(ss.draw_scene, config=["article"]), *wrong(ss.draw_scene, CONFIG, seed=[-1, 1.5, "1"], index=[-1, None], split=["dev"]),
    ("kind", lambda path: ss.outline("banana", np.random.RandomState(0))), *wrong(ss.fill, vertices=[np.full((3, 2), np.nan)]),
    *wrong(ss.draw_scenes, CONFIG, indices=[[0.5]]),
    *wrong(ss.stream, batch_size=[0, "2"], start=[-1], count=[2.5], seed=[-1], dataset_size=[0], data=["article"]),
    ("masks", lambda path: ss.stream((IMAGES, MASKS[:1]))), ("count", lambda path: ss.write_dataset(path, CONFIG, count=0)),
    ("config", lambda path: ss.write_dataset(path, "article")),
    *wrong(ss.read_dataset, ROOT / "data/samples", classes=[["circle", "circle"], [], "circle"]),
    *wrong(ss.Counts, threshold=["0.5"]), *wrong(COUNTS.table, classes=[["a"]]), ("batches", lambda path: ss.Counts().table(["a"])),
    *(("probabilities", lambda path, p=p: ss.Counts().add(p, MASKS)) for p in (P * np.nan, P * 3, P[:1])),
    ("truth", lambda path: COUNTS.add(P[..., :2], MASKS[..., :2])), ("predicted", lambda path: ss.iou(MASKS, MASKS[:1])),
    *wrong(ss.compose, MASKS[0], image=[IMAGES[0] / 255, IMAGES[0, :5]]),
    *wrong(ss.build_model, classes=[0, "5"], channels=[-1], widths=[(16, 0), 16, ()], kernels=[3, (), (4,)], skip=["sum"],
           patch=[0], convolutions=[0, (1, 2)], contrast=[4], activation=["tanh"], output=["linear"], dropout=[1.0, float("nan")],
           rays=[-1, 8.5], seed=[-1]),
    ("model", lambda path: ss.predict(None, IMAGES)), ("model", lambda path: ss.macs(keras.Sequential(), 16)),
    ("path", lambda path: ss.save_model(MODEL, path / "model.h5")), ("model", lambda path: ss.find_objects(MODEL, IMAGES[0])),
    *wrong(ss.evaluate, MODEL, batches=[ss.stream(CONFIG), (IMAGES, MASKS), [], CONFIG, None]), ("probabilities", lambda path: ss.evaluate(MODEL, [(IMAGES, MASKS[..., :2])])),
    *wrong(ss.evaluate, MODEL, [(IMAGES, MASKS)], classes=[["a"]], threshold=[50]),
    *wrong(ss.find_objects, RAYS, IMAGES[0], threshold=[1.5], classes=[["a"]]),
    ("form", coco(form="mask")), ("shape", coco(shape=64)), ("objects", coco(classes=["circle"])),
    ("objects", coco([SCENE.figures], results=True)), *wrong(ss.evaluate_objects, [SCENE], objects=[[]]),
    ("scenes", lambda path: ss.evaluate_objects([], [])), ("path", lambda path: ss.read_coco(path / "none.json")),
    *((name, train(**{name: value})) for name, values in dict(
        steps=[0, 2.5, "5"], batch_size=[0], learning_rate=[float("nan"), "0.1"], optimizer=["sgd"], schedule=["step"], warmup=[-1],
        weight_decay=[-1], dataset_size=[0], seed=[-1], log_every=[0], validation=[IMAGES], model=[keras.Sequential()],
        callbacks=[[print]], data=["folder", replace(CONFIG, channels=3), (IMAGES, MASKS[..., :2])]).items() for value in values),
    ("images", train(data=(IMAGES / 255, MASKS))), ("masks", train(data=(IMAGES, P))),
    ("data", train(model=RAYS, data=(IMAGES, MASKS))), ("dataset_size", train(data=(IMAGES, MASKS), dataset_size=4)),
    ("crop", train(augment=True, crop=8)), ("crop", train(crop=32)), ("augment", train(augment="yes")),
    *(("grid", sweep(grid=grid)) for grid in ({"run_dir": ["a"]}, {"y": [1]}, {"size": 1}, {"size": []}, {"size": [Path()]})),
    ("executor", sweep(executor=2)), ("notebook", sweep(notebook="README.md")), ("notebook", sweep(notebook="none.ipynb")),
])
def test_a_wrong_argument_is_named_and_nothing_is_written(name, call, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=f"^{name}\\b.*: expected "):
        call(tmp_path)
    assert not [*tmp_path.iterdir()]
