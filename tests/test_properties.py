"""What people really get wrong is an error that begins with the argument's name."""

from dataclasses import replace

import numpy as np
import pytest

import shapeseg as ss
from conftest import CONFIG, NETWORK, ROOT
from shapeseg.backend import keras

IMAGES, MASKS = ss.draw_scenes(CONFIG, 0, range(2))
MODEL, RAYS = (ss.build_model(**NETWORK | dict(widths=(8,), rays=rays)) for rays in (0, 8))
P, COUNTS = np.full(MASKS.shape, 0.5), ss.Counts().add(np.full(MASKS.shape, 0.5), MASKS)

def wrong(call, *arguments, **values):
    """A case per wrong value of each argument."""
    return [(name, lambda path, one={name: value}: call(*arguments, **one)) for name, wrong in values.items() for value in wrong]


def train(**changed):
    return lambda path: ss.train(**dict(model=MODEL, data=CONFIG, steps=2, run_dir=path / "run") | changed)


def sweep(**changed):
    return lambda path: ss.sweep(**dict(notebook="notebooks/01_dataset.ipynb", grid={"size": [64]}, run_dir=path / "run") | changed)


@pytest.mark.parametrize("name, call", [
    *wrong(ss.draw_scene, config=["article"]), *wrong(ss.draw_scene, CONFIG, seed=[-1, 1.5, "1"], index=[-1, None], split=["dev"]),
    *wrong(ss.fill, vertices=[np.full((3, 2), np.nan)]), *wrong(ss.draw_scenes, config=["article"]),
    *wrong(ss.stream, batch_size=[0, "2"], seed=[-1], data=["article"]),
    ("masks", lambda path: ss.stream((IMAGES, MASKS[:1]))), *wrong(ss.find_objects, RAYS, image=[IMAGES, IMAGES[0, ..., 0]]),
    *wrong(ss.predict, MODEL, images=[[], IMAGES[0], IMAGES[..., 0], IMAGES / 255, IMAGES.repeat(3, axis=-1), None]),
    *wrong(ss.augment, IMAGES[0], masks=[MASKS[0, 1:]]), *wrong(ss.augment, IMAGES[0], MASKS[0], crop=[4, "64"]),
    ("image", lambda path: ss.augment(IMAGES[0] / 255, MASKS[0])), *wrong(ss.compose, masks=[MASKS, MASKS[0] * 1]),
    ("truth", lambda path: ss.Counts().add(P, P)),
    *wrong(ss.read_dataset, ROOT / "data/samples", classes=[["circle", "circle"], [], "circle"]),
    *wrong(COUNTS.table, classes=[["a"]]), ("batches", lambda path: ss.Counts().table(["a"])),
    *(("probabilities", lambda path, p=p: ss.Counts().add(p, MASKS)) for p in (P * np.nan, P * 3, P[:1])),
    ("predicted", lambda path: ss.iou(MASKS, MASKS[:1])), *wrong(ss.compose, MASKS[0], image=[IMAGES[0] / 255, IMAGES[0, :5]]),
    *wrong(ss.build_model, classes=[0, "5"], channels=[-1], widths=[(16, 0), 16, ()], kernels=[3, ()], skip=["sum"],
           patch=[0], convolutions=[0, (1, 2)], output=["linear"], rays=[-1, 8.5]),
    ("model", lambda path: ss.predict(None, IMAGES)), ("model", lambda path: ss.macs(keras.Sequential(), 16)),
    ("model", lambda path: ss.find_objects(MODEL, IMAGES[0])), ("model", lambda path: ss.new_head(keras.Sequential(), 2)),
    *wrong(ss.evaluate, MODEL, batches=[ss.stream(CONFIG), (IMAGES, MASKS), []]),
    *wrong(ss.evaluate, MODEL, [(IMAGES, MASKS)], classes=[["a"]]),
    ("probabilities", lambda path: ss.evaluate(MODEL, [(IMAGES, MASKS[..., :2])])),
    *wrong(ss.find_objects, RAYS, IMAGES[0], threshold=[1.5], classes=[["a"]]),
    *((name, train(**{name: value})) for name, values in dict(
        steps=[0, 2.5, "5"], learning_rate=[-1, "fast"], batch_size=[0], optimizer=["sgd"], schedule=["step"], warmup=[-1], seed=[-1], log_every=[0],
        validation=[IMAGES], model=[keras.Sequential()], keep=["best"],
        data=["folder", replace(CONFIG, channels=3), (IMAGES, MASKS[..., :2])]).items() for value in values),
    ("crop", train(crop=64, augment=False)), ("crop", train(crop=32)), ("images", train(data=(IMAGES / 255, MASKS))), ("masks", train(data=(IMAGES, P))),
    ("data", train(model=RAYS, data=(IMAGES, MASKS))), ("data", train(model=RAYS, validation=(IMAGES, MASKS))),
    *(("grid", sweep(grid=grid)) for grid in ({"run_dir": ["a"]}, {"y": [1]}, {"size": 1}, {"size": []})),
])
def test_a_wrong_argument_is_named_and_nothing_is_written(name, call, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=f"^{name}\\b.*: expected "):
        call(tmp_path)
    assert not [*tmp_path.iterdir()]
