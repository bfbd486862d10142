import json
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter

import shapeseg as ss
from conftest import CONFIG, random_images
from shapeseg.datasets import find_duplicates


def same(a, b):
    return all((u == v).all() for x, y in zip(a, b, strict=True) for u, v in zip(x, y, strict=True))


@given(st.lists(st.integers(0, 99), min_size=1, max_size=5), st.sampled_from(ss.SPLITS))
def test_draw_scenes_stacks_draw_scene(indices, split):
    scenes = [ss.draw_scene(CONFIG, 4, index, split) for index in indices]
    assert same(zip(*ss.draw_scenes(CONFIG, 4, np.array(indices), split)), [(scene.image, scene.masks) for scene in scenes])


@given(st.integers(1, 4), st.integers(0, 6), st.integers(0, 9))
def test_a_stream_is_its_scenes_in_order_from_any_start(batch_size, start, count):
    batches = ss.stream(CONFIG, 4, batch_size, start, count, "test")
    parts = list(batches)
    assert [len(images) for images, _ in parts] == [min(batch_size, count - n) for n in range(0, count, batch_size)]
    assert same(parts, list(batches))  # it begins anew each time
    if count:
        assert same([map(np.concatenate, zip(*parts))], [ss.draw_scenes(CONFIG, 4, range(start, start + count), "test")])
    endless = ss.stream(CONFIG, 4, batch_size, start, split="test")
    assert same(list(islice(endless, count // batch_size)), parts[:count // batch_size])


def test_arrays_and_a_dataset_size_are_gone_through_in_new_orders():
    arrays = ss.draw_scenes(CONFIG, 0, range(6))
    orders = {}
    for name, data, seed in (("a", arrays, 0), ("b", CONFIG, 0), ("c", arrays, 1)):
        batches = list(ss.stream(data, seed, 1, count=12, **({} if data is arrays else {"dataset_size": 6})))
        orders[name] = [images[0].tobytes() for images, _ in batches]
        places = [next(n for n in range(6) if (arrays[0][n] == images[0]).all()) for images, _ in batches]
        assert sorted(places[:6]) == sorted(places[6:]) == list(range(6)) and places[:6] != places[6:]
        assert all((masks[0] == arrays[1][n]).all() for n, (_, masks) in zip(places, batches))
    assert orders["a"] == orders["b"] != orders["c"]


def different_sizes(count=6):
    """Images and masks of two sizes, as lists."""
    scenes = [ss.draw_scene(CONFIG, 3, n) for n in range(count)]
    parts = [np.s_[:48, :] if n % 2 else np.s_[:, :56] for n in range(count)]
    return [scene.image[part] for scene, part in zip(scenes, parts)], [scene.masks[part] for scene, part in zip(scenes, parts)]


def test_images_of_different_sizes_go_everywhere(tmp_path):
    images, masks = different_sizes()
    for some, truth in ss.stream((images, masks), 0, 3, count=6, augment=True, crop=32):
        assert some.shape == (3, 32, 32, 1) and truth.shape == (3, 32, 32, 5)
    with pytest.raises(ValueError, match="^crop: expected "):
        ss.stream((images, masks), 0, 3)
    model = ss.build_model(widths=(4, 8), seed=0)
    for p, image in zip(ss.predict(model, images), images, strict=True):
        assert p.shape == (*image.shape[:2], 5) and (p == ss.predict(model, image[None])[0]).all()
    one_by_one = ss.evaluate(model, [(image[None], mask[None]) for image, mask in zip(images, masks)])
    assert ss.evaluate(model, [(images, masks)]).equals(one_by_one)
    for run in ("a", "b", "a"):  # trained, trained again, and read
        last = ss.build_model(widths=(4, 8), seed=0)
        history = ss.train(last, (images[:4], masks[:4]), 2, tmp_path / run, validation=(images[4:], masks[4:]), batch_size=2,
                           crop=32, keep="last", log_every=1)
        assert history.val_loss.iloc[-1] == ss.evaluate(last, [(images[4:], masks[4:])]).bce["mean"]
    first, again = (ss.load_model(tmp_path / run / "model.keras").get_weights() for run in "ab")
    assert all((a == b).all() for a, b in zip(first, again))


def test_own_images_are_augmented_and_cut_and_the_best_epoch_is_kept_unless_one_says_otherwise(tmp_path):
    images, masks = ss.draw_scenes(CONFIG, 0, range(4))
    def arguments(**more):
        ss.train(ss.build_model(widths=(4, 8), seed=0), (images, masks), 1, tmp_path / str(len([*tmp_path.iterdir()])), **more)
        return json.loads(max(tmp_path.glob("*/run.json"), key=lambda path: int(path.parent.name)).read_text())["arguments"]
    usual = arguments(validation=(images, masks))
    assert (usual["augment"], usual["crop"], usual["keep"]) == (True, 64, "best") and usual["batch_size"] * 64**2 == 2 * 512**2
    other = arguments(augment=False, keep="last", batch_size=3)
    assert (other["augment"], other["crop"], other["keep"], other["batch_size"]) == (False, None, "last", 3)
    assert arguments(crop=0, batch_size=1)["crop"] is None
    assert arguments(crop=1024, log_every=1)["batch_size"] == 1  # not 0


def test_a_split_shares_no_image_and_keeps_near_duplicates_together(capsys):
    images = np.rint(gaussian_filter(random_images(20, 64, 64, 1), (0, 3, 3, 0)) * 4.0 - 384).clip(0, 255).astype(np.uint8)
    again = np.asarray(Image.fromarray(images[3, ..., 0]).resize((96, 96), Image.BICUBIC))[..., None]
    pictures = [*images, again, np.clip(images[5] + 3.0, 0, 255).astype(np.uint8)]
    masks = [np.full((*image.shape[:2], 1), True) for image in pictures]
    for seed in range(8):
        parts = ss.split_dataset(pictures, masks, seed=seed)
        where = [[next(n for n, one in enumerate(pictures) if one is image) for image in some] for some, _ in parts]
        assert sorted(sum(where, [])) == list(range(22)) and min(map(len, where)) >= 3
        assert all(({3, 20} <= {*part}) or not {3, 20} & {*part} for part in where)
        assert all(({5, 21} <= {*part}) or not {5, 21} & {*part} for part in where)
    assert "[3, 20], [5, 21]" in capsys.readouterr().out
    whole = ss.split_dataset(images, np.ones((20, 64, 64, 1), bool), validation=0.5, test=0)
    assert [len(some) for some, _ in whole] == [10, 10, 0] and isinstance(whole[0][0], np.ndarray)
    assert not find_duplicates(images) and [len(part) for part, _ in ss.split_dataset([*images[:10], *[images[10]] * 20], [masks[0]] * 30)] == [20, 4, 6]
    with pytest.raises(ValueError, match="^images: expected enough .* 2 different ones"):
        ss.split_dataset(images[:2], np.ones((2, 64, 64, 1), bool))
    with pytest.raises(ValueError, match="^validation and test: "):
        ss.split_dataset(images, np.ones((20, 64, 64, 1), bool), validation=0.6, test=0.6)
