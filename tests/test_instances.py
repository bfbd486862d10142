import itertools
from dataclasses import replace

import numpy as np
import pytest

import shapeseg as ss
from shapeseg.backend import tf
from shapeseg.instances import centres_loss, decode, directions, encode, measure_rays, middle, outlines_loss, star
from test_models import SMALL, random_images

RAYS, PATCH = 64, 4
CROWD = replace(ss.CROWDED, size=128, radius=(0.1, 0.2))


def crowds(count, config=ss.CROWDED):
    return [ss.draw_scene(config, 3, n, "validation") for n in range(count)]


def ideal(scene):
    """The centres and outlines of a network that knows the truth."""
    size = scene.image.shape[0] // PATCH
    centres = np.full((size, size, len(ss.CLASSES)), -9, np.float32)
    outlines = np.zeros((size // 2, size // 2, 2 + RAYS), np.float32)
    for k, *centre_and_rays in encode(scene, RAYS, len(scene.figures)):
        centre, rays = np.array(centre_and_rays[:2]), np.array(centre_and_rays[2:])
        away = np.square(np.moveaxis(np.mgrid[:size, :size], 0, -1) - (centre - (PATCH - 1) / 2) / PATCH).sum(axis=-1)
        heat = np.clip(np.exp(-away / 2), 1e-4, 1 - 1e-4)
        centres[..., int(k)] = np.maximum(centres[..., int(k)], np.log(heat / (1 - heat)))
        way = (centre - PATCH + 0.5) / (2 * PATCH) - np.moveaxis(np.mgrid[:size // 2, :size // 2], 0, -1)
        near = np.hypot(*np.moveaxis(way, -1, 0)) < 1.2
        outlines[near, :2], outlines[near, 2:] = way[near], np.log(rays / PATCH)
    return centres, outlines


def iou(figure, one, shape):
    true = np.zeros(shape, bool)
    box, inside = ss.fill(figure.vertices)
    true[box] = inside
    ours = one.mask(shape)
    return (true & ours).sum() / (true | ours).sum()


@pytest.mark.parametrize("kind", ss.KINDS + ss.NOVEL_KINDS)
def test_rays_bring_every_outline_back(kind):
    config = replace(ss.ARTICLE, kinds=(kind,), classes=(ss.LABELS[kind],), figures=(1, 1))
    for n in range(20):
        scene = ss.draw_scene(config, 0, n)
        figure = scene.figures[0]
        label, row, column, *rays = encode(scene, RAYS, 1, config.classes)[0]
        assert label == 0 and star(figure.vertices, (row, column))
        outline = np.array([row, column]) + np.array(rays)[:, None] * directions(RAYS)
        assert iou(figure, ss.Object(figure.label, 1.0, (row, column), outline), scene.masks.shape[:2]) > 0.95


def test_rays_of_a_square():
    square = np.array([(-1.0, -1), (-1, 1), (1, 1), (1, -1)])
    assert np.allclose(measure_rays(square + 5, np.array([5.0, 5]), 8), [1, 2**0.5] * 4)
    assert np.allclose(measure_rays(square, np.array([0.0, 0.5]), 4), [0.5, 1, 1.5, 1])


def test_the_middle_is_the_centre_of_mass_or_where_all_can_be_seen():
    for scene in crowds(20):
        for figure in scene.figures:
            (rows, columns), inside = ss.fill(figure.vertices)
            mass = np.argwhere(inside).mean(axis=0) + (rows.start, columns.start)
            assert np.hypot(*(middle(figure) - mass)) < 0.5 or not star(figure.vertices, mass)
            assert star(figure.vertices, middle(figure))


def test_the_ideal_network_finds_every_object_and_every_twin():
    scenes = crowds(30)
    found = [decode(*ideal(scene), PATCH, 0.3) for scene in scenes]
    scores = ss.evaluate_objects(scenes, found)
    assert scores["pairs"] > 0.98 and scores["counts"] > 0.95 and scores["ap50"] > 0.97 and scores["ap75"] > 0.97
    for objects in found:
        assert [one.score for one in objects] == sorted((one.score for one in objects), reverse=True)


def test_one_object_with_two_summits_is_one():
    scene = next(scene for scene in crowds(40) if len(scene.figures) == 2)
    centres, outlines = ideal(scene)
    k, row, column, *_ = encode(scene, RAYS, 2)[0]
    pixel = int(row) // PATCH // 2 * 2, int(column) // PATCH // 2 * 2
    centres[pixel[0] - 4, pixel[1], (int(k) + 1) % 5] = 8.0  # of another class, but the outline is the same
    outlines[pixel[0] // 2 - 2, pixel[1] // 2] = outlines[pixel[0] // 2, pixel[1] // 2] + np.eye(2 + RAYS)[0] * 2
    assert len(decode(centres, outlines, PATCH, 0.3)) == 2


def test_the_losses_are_least_where_the_network_knows_the_truth():
    scene = next(scene for scene in crowds(40) if len(scene.figures) == 2)
    targets = tf.constant(encode(scene, RAYS, 6)[None])  # four rows are left over
    centres, outlines = (channels[None] for channels in ideal(scene))
    of_centres, of_outlines = centres_loss(PATCH, len(ss.CLASSES)), outlines_loss(PATCH)
    assert 0 <= float(of_centres(targets, tf.constant(centres))) < 0.02
    assert float(of_centres(targets, tf.constant(centres + 1))) > 0.05
    knows = np.zeros_like(outlines)  # everywhere the way to the nearer centre and its rays
    rows, columns = np.mgrid[:outlines.shape[1], :outlines.shape[2]]
    table = encode(scene, RAYS, 2)
    ways = [np.stack([(at - PATCH + 0.5) / (2 * PATCH) - grid for at, grid in zip(row[1:3], (rows, columns))], -1) for row in table]
    nearer = (np.hypot(*ways[0].T).T > np.hypot(*ways[1].T).T).astype(int)
    for n in (0, 1):
        knows[0, nearer == n, :2], knows[0, nearer == n, 2:] = ways[n][nearer == n], np.log(table[n, 3:] / PATCH)
    least = float(of_outlines(targets, tf.constant(knows)))
    assert 0 <= least < 0.05
    for channels, change in ((slice(0, 2), 0.5), (slice(2, None), 0.3), (slice(2, None), -0.3)):
        worse = knows.copy()
        worse[..., channels] += change
        assert float(of_outlines(targets, tf.constant(worse))) > least + 0.05


def test_objects_and_masks_from_one_pass():
    model = ss.build_model(**SMALL, patch=2, rays=16)
    for shape in ((1, 40, 56, 1), (1, 37, 51, 1), (1, 1, 1, 1)):
        image = random_images(*shape)[0]
        objects, masks = ss.find_objects(model, image, threshold=0.001)
        assert (masks == ss.predict(model, image[None])[0]).all()
        assert all(one.label in ss.CLASSES and one.outline.shape == (16, 2) and 0 <= one.score <= 1 for one in objects)
        assert all(one.mask(image.shape[:2]).shape == image.shape[:2] for one in objects)


def test_objects_in_a_large_image_are_found_tile_by_tile(monkeypatch):
    from shapeseg.inference import run_network
    model = ss.build_model(**ss.FAST_MODEL, rays=16)
    images = random_images(1, 437, 630, 1)
    whole = run_network(model, images)
    assert [result.shape for result in whole] == [(1, 437, 630, 5), (1, 110, 158, 5), (1, 55, 79, 2 + 16)]
    monkeypatch.setattr("shapeseg.inference.TILE", 100)
    assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(run_network(model, images), whole))


def test_masks_are_those_of_the_network_without_rays():
    images = random_images(2, 32, 32, 1)
    plain, both = ss.build_model(**SMALL, seed=4), ss.build_model(**SMALL, rays=8, seed=4)
    assert (ss.predict(plain, images) == ss.predict(both, images)).all()
    assert both.count_params() > plain.count_params()


def test_training_learns_objects_and_can_be_stopped(tmp_path):
    from shapeseg.backend import keras
    model = ss.build_model(**ss.FAST_MODEL, rays=8)
    history = ss.train(model, CROWD, 30, tmp_path / "a", every=10)
    assert {"loss", "iou", "masks_loss", "centres_loss", "outlines_loss"} <= set(history)
    assert (history[["centres_loss", "outlines_loss"]].iloc[-1] < history[["centres_loss", "outlines_loss"]].iloc[0] / 1.1).all()

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 0

    again = ss.build_model(**ss.FAST_MODEL, rays=8)
    ss.train(again, CROWD, 30, tmp_path / "b", every=10, callbacks=[Stop()])
    ss.train(again, CROWD, 30, tmp_path / "b", every=10)
    assert all((a == b).all() for a, b in zip(model.get_weights(), again.get_weights()))
    loaded = ss.load_model(tmp_path / "a/model.keras")
    image = ss.draw_scene(CROWD).image
    assert (ss.find_objects(loaded, image)[1] == ss.find_objects(model, image)[1]).all()


def test_a_match_is_one_to_one_and_of_one_class():
    scene = max(crowds(10), key=lambda scene: len(scene.figures))
    shape = scene.masks.shape[:2]
    objects = [ss.Object(figure.label, 1.0, figure.centre, figure.vertices) for figure in scene.figures]
    order = np.random.RandomState(0).permutation(len(objects))
    assert [order[n] for n in ss.match(scene.figures, [objects[n] for n in order], shape)] == list(range(len(objects)))
    assert ss.match(scene.figures, objects[:1] * 2, shape).count(-1) == len(scene.figures) - 1
    wrong = [replace(one, label="circle" if one.label != "circle" else "quad") for one in objects]
    assert set(ss.match(scene.figures, wrong, shape)) == {-1} or len({one.label for one in objects}) > 1
    assert ss.match(scene.figures, [], shape) == [-1] * len(scene.figures) and ss.match((), objects, shape) == []


def test_twins_are_the_pairs_of_one_class_that_overlap():
    for scene in crowds(20):
        masks = np.zeros((len(scene.figures), *scene.masks.shape[:2]), bool)
        for mask, figure in zip(masks, scene.figures):
            box, inside = ss.fill(figure.vertices)
            mask[box] = inside
        expected = {(i, j): (masks[i] & masks[j]).sum() / min(masks[i].sum(), masks[j].sum())
                    for i, j in itertools.combinations(range(len(masks)), 2)
                    if scene.figures[i].label == scene.figures[j].label and (masks[i] & masks[j]).any()}
        found = {(i, j): share for i, j, share in ss.twins(scene.figures)}
        assert found.keys() == expected.keys() and np.allclose(list(found.values()), list(expected.values()))
        assert any(0.1 <= share <= 0.6 for share in found.values())  # what CROWDED promises


def test_wrong_arguments():
    model, plain = ss.build_model(**SMALL, rays=8), ss.build_model(**SMALL)
    image = random_images(1, 16, 16, 1)[0]
    for call, words in ((lambda: ss.find_objects(plain, image), "model: expected a network that finds objects"),
                        (lambda: ss.find_objects(None, image), "model: expected a network that finds objects"),
                        (lambda: ss.find_objects(model, image[None]), "image: expected one image"),
                        (lambda: ss.find_objects(model, image / 255), "uint8"),
                        (lambda: ss.find_objects(model, image, 1.5), "threshold: expected"),
                        (lambda: ss.find_objects(model, image, classes=["a"]), "classes: expected 5 names"),
                        (lambda: ss.build_model(rays=3), "rays: expected 0 or a whole number from 8"),
                        (lambda: ss.train(model, random_pair(), 2, "runs/never"), "learns its objects from a SceneConfig"),
                        (lambda: ss.stream(random_pair(), encode=len), "encode: expected None with arrays")):
        with pytest.raises(ValueError, match=words):
            call()


def random_pair():
    return random_images(2, 16, 16, 1), np.zeros((2, 16, 16, 5), bool)
