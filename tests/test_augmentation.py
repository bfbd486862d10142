from contextlib import nullcontext
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import shapeseg as ss
from conftest import CONFIG, NETWORK, QUICK, equal, weights_of
from test_checkpoints import interrupt

SCENE = ss.draw_scene(ss.SceneConfig(size=96, radius=(0.1, 0.2)), 0, 3)
BRIGHT = np.where(SCENE.masks.any(axis=-1, keepdims=True), 200, 60).astype(np.uint8)  # an image that shows the masks


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.sampled_from([None, 16, 64, 200]), st.sampled_from([(96, 96), (96, 70), (20, 96)]))
def test_masks_go_where_the_image_goes_and_the_key_decides(seed, index, crop, shape):
    image, masks = (np.repeat(array[:shape[0], :shape[1]], channels, axis=-1) for array, channels in ((BRIGHT, 3), (SCENE.masks, 1)))
    before = image.copy(), masks.copy()
    changed = ss.augment(image, masks, seed, index, crop)
    assert [array.shape for array in changed] == [(*((crop, crop) if crop else shape), channels) for channels in (3, 5)]
    assert [array.dtype for array in changed] == [np.uint8, bool]
    again = ss.augment(image, masks, np.int64(seed), index, crop)
    assert all((a == b).all() for a, b in zip((*changed, image, masks), (*again, *before)))  # and what was given stays as it is
    inside = changed[1].any(axis=-1)
    if inside.mean() > 0.02 and (~inside).mean() > 0.02:
        levels = changed[0].mean(axis=-1)
        assert levels[inside].mean() > levels[~inside].mean() + 20


def test_all_eight_views_come_and_seven_images_of_ten_keep_their_levels():
    pixels = np.arange(16, dtype=np.uint8).reshape(4, 4, 1) * 16
    bright = pixels > 99
    views = [ss.augment(pixels, bright, 0, index) for index in range(400)]
    assert not any(np.shares_memory(image, pixels) or np.shares_memory(masks, bright) for image, masks in views)
    assert len({masks.tobytes() for _, masks in views}) == 8
    assert 0.65 < np.mean([np.array_equal(np.sort(image.ravel()), pixels.ravel()) for image, _ in views]) < 0.8
    halves = {ss.augment(pixels[:2], pixels[:2] > 40, 0, index)[1].tobytes() for index in range(99)}
    assert len(halves) == 4  # an oblong stays one


def test_crops_favour_places_with_something_in_them_and_keep_its_shape():
    image, masks = np.zeros((512, 512, 1), np.uint8), np.zeros((512, 512, 2), bool)
    masks[400:410, 50:60, 0] = True
    seen = [ss.augment(image, masks, 0, index, 64)[1].any() for index in range(200)]
    assert 0.25 < np.mean(seen) < 0.7  # by chance one in fifty
    flat = np.zeros((60, 256, 1), bool)
    flat[20:40, 100:120] = True
    for n in range(20):
        rows, columns = (ss.augment(flat.view(np.uint8), flat, 0, n, 200)[1][..., 0].any(axis=axis) for axis in (1, 0))
        assert abs(rows.sum() - columns.sum()) <= 5 or rows[[0, -1]].any() or columns[[0, -1]].any()  # or it is cut


def test_a_stream_changes_each_scene_four_times_and_starts_anywhere():
    batches = list(ss.stream(CONFIG, 4, 1, count=300, augment=True))
    _, masks = ss.draw_scenes(CONFIG, 4, range(96))
    sizes = masks.sum(axis=(1, 2)).tolist()  # which turns and mirror images keep
    drawn = [n // 128 * 32 + n % 32 for n in range(300)]
    assert [changed[0].sum(axis=(0, 1)).tolist() for _, changed in batches] == [sizes[n] for n in drawn]
    later = list(islice(ss.stream(CONFIG, 4, 1, start=130, augment=True), 20))
    assert all((a == b).all() for one, two in zip(batches[130:150], later) for a, b in zip(one, two))
    assert len({image.tobytes() for image, _ in batches}) > 270  # an image that keeps its levels may come back


def test_a_run_with_changes_and_crops_that_was_stopped_ends_as_one_that_was_not(tmp_path):
    arrays, options = ss.draw_scenes(CONFIG, 0, range(4)), dict(augment=True, crop=32, **QUICK)
    for name, callbacks in (("whole", []), ("stopped", [interrupt("on_epoch_end", 1)])):
        with pytest.raises(KeyboardInterrupt) if callbacks else nullcontext():
            ss.train(ss.build_model(**NETWORK), arrays, 6, tmp_path / name, callbacks=callbacks, **options)
    ss.train(ss.build_model(**NETWORK), arrays, 6, tmp_path / "stopped", **options)
    assert equal(weights_of(tmp_path / "whole"), weights_of(tmp_path / "stopped"))
