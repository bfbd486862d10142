import subprocess
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from skimage.io import imread, imsave

import shapeseg as ss
from shapeseg.datasets import CHECKSUMS


def same(a, b):
    return all(len(x) == len(y) and all((u == v).all() for u, v in zip(x, y)) for x, y in zip(a, b))


def test_draw_scenes_stacks_draw_scene(small):
    images, masks = ss.draw_scenes(small, seed=4, indices=[3, 1], split="test")
    for n, index in enumerate([3, 1]):
        scene = ss.draw_scene(small, 4, index, "test")
        assert (images[n] == scene.image).all() and (masks[n] == scene.masks).all()


def test_a_stream_is_its_scenes_in_order(small):
    batches = list(ss.stream(small, seed=4, batch_size=3, count=7))
    assert [len(images) for images, _ in batches] == [3, 3, 1]
    images, masks = ss.draw_scenes(small, 4, range(7))
    assert (np.concatenate([b[0] for b in batches]) == images).all()
    assert (np.concatenate([b[1] for b in batches]) == masks).all()


def test_a_stream_can_start_anywhere_and_does_not_end(small):
    whole = list(islice(ss.stream(small, 1, batch_size=2), 5))
    tail = list(islice(ss.stream(small, 1, batch_size=2, start=4), 3))
    assert same(whole[2:], tail)


def test_a_stream_begins_anew_each_time(small):
    batches = ss.stream(small, 1, batch_size=2, count=4)
    assert same(list(batches), list(batches))


@pytest.mark.parametrize("arrays", [False, True])
def test_a_repeated_set_is_gone_through_in_new_orders(small, arrays):
    images, masks = ss.draw_scenes(small, 1, range(5))
    again = ss.stream((images, masks) if arrays else small, 1, batch_size=5, count=10, repeat=5)
    (first, first_masks), (second, _) = list(again)
    order = [next(n for n in range(5) if (images[n] == image).all()) for image in first]
    assert sorted(order) == list(range(5)) and (first_masks == masks[order]).all()
    assert sorted(map(bytes, first)) == sorted(map(bytes, second)) and (first != second).any()


@pytest.mark.parametrize("name", ["article", "colour", "single"])
def test_what_is_written_is_read_back(tmp_path, name):
    config = replace(ss.SCENE_CONFIGS[name], size=64, radius=(0.1, 0.2))
    ss.write_dataset(tmp_path / "set", config, seed=2, count=3, split="validation")
    images, masks = ss.read_dataset(tmp_path / "set", config.classes)
    expected = ss.draw_scenes(config, 2, range(3), "validation")
    assert (images == expected[0]).all() and (masks == expected[1]).all()
    assert imread(tmp_path / "set/masks" / config.classes[0] / "00001.png").max() in (0, 255)


def test_a_dataset_is_whole_or_absent(tmp_path, small):
    too_many = ss.SceneConfig(size=64, figures=(60, 60), radius=(0.3, 0.45), opacity=(0.9, 0.9))
    with pytest.raises(ValueError, match="figures: "):
        ss.write_dataset(tmp_path / "set", too_many, count=2)
    assert list(tmp_path.iterdir()) == []
    ss.write_dataset(tmp_path / "set", small, count=1)
    with pytest.raises(FileExistsError, match="is there already; give a new name"):
        ss.write_dataset(tmp_path / "set", small, count=1)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_mask_is_where_the_grey_is_above_127(tmp_path, small):
    folder = ss.write_dataset(tmp_path / "set", small, count=1)
    grey = np.arange(64 * 64).reshape(64, 64).astype(np.uint8)
    (folder / CHECKSUMS).unlink()
    imsave(folder / "masks/quad/00000.png", grey, check_contrast=False)
    assert (ss.read_dataset(folder)[1][0, ..., ss.CLASSES.index("quad")] == (grey > 127)).all()


def test_the_order_of_repeated_scenes_depends_on_the_seed_and_the_round(small):
    scenes = ss.draw_scenes(small, 0, range(6))
    orders = [[images[0].tobytes() for images, _ in ss.stream(scenes, seed, 1, count=12)] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2] and orders[0][:6] != orders[0][6:]
    assert all(sorted(order[:6]) == sorted(order[6:]) for order in orders)


@pytest.mark.parametrize("spoil, error, words", [
    (lambda d: (d / "masks/quad/00001.png").unlink(), FileNotFoundError, "00001.png: there is no such file"),
    (lambda d: (d / "masks/quad/00001.png").write_bytes(b""), ValueError, "quad/00001.png: .* cannot be read"),
    (lambda d: (d / "images/00002.txt").write_bytes(b""), ValueError, "images: expected images alone .*, found 00002.txt"),
    (lambda d: (d / "images/00001.JPG").write_bytes(b""), ValueError, "found 00001.JPG and 00001.png"),
    (lambda d: imsave(d / "masks/quad/00001.png", np.eye(64, dtype=np.uint8)[..., None] * np.uint8([255, 0, 0]),
                      check_contrast=False),
     ValueError, "masks/quad/00001.png: expected a grey mask, got colours"),
    (lambda d: imsave(d / "masks/quad/00001.png", np.ones((64, 64), np.uint8), check_contrast=False), ValueError,
     "masks/quad/00001.png: expected 0 and 255, got 1 to 1"),
    (lambda d: (d / "images/00000.png").write_bytes(b"not a picture"), ValueError, "00000.png: .* cannot be read"),
    (lambda d: imsave(d / "images/00001.png", np.zeros((32, 32), np.uint8), check_contrast=False), ValueError,
     "00001.png: expected \\(64, 64, 1\\)"),
    (lambda d: imsave(d / "images/00001.png", np.zeros((64, 64), np.uint16), check_contrast=False), ValueError,
     "expected 8 bits"),
    (lambda d: [path.unlink() for path in (d / "images").iterdir()], FileNotFoundError, "found no images"),
])
def test_a_spoilt_dataset(tmp_path, small, spoil, error, words):
    folder = ss.write_dataset(tmp_path / "set", small, count=2)
    (folder / CHECKSUMS).unlink()
    spoil(folder)
    with pytest.raises(error, match=words):
        ss.read_dataset(folder)


def test_a_file_that_is_not_as_it_was_written_is_named(tmp_path, small):
    folder = ss.write_dataset(tmp_path / "set", small, count=2)
    one, other = folder / "images/00000.png", folder / "images/00001.png"
    whole = one.read_bytes()
    for damaged in (b"", whole[:-20], whole[:90] + bytes([whole[90] ^ 1]) + whole[91:], other.read_bytes()):
        one.write_bytes(damaged)
        with pytest.raises(ValueError, match="images/00000.png: it is not as write_dataset wrote it"):
            ss.read_dataset(folder)
    one.unlink()
    with pytest.raises(FileNotFoundError, match="images/00000.png: there is no such file"):
        ss.read_dataset(folder)
    done = subprocess.run(["sha256sum", "--check", "--quiet", CHECKSUMS], cwd=folder, capture_output=True, text=True)
    assert done.returncode and "images/00000.png" in done.stdout + done.stderr


def test_damaged_checksums_are_noticed(tmp_path, small):
    folder = ss.write_dataset(tmp_path / "set", small, count=2)
    lines = (folder / CHECKSUMS).read_text().splitlines(keepends=True)
    for text in ("", "".join(lines[:3]), "".join(lines)[:-90], "word", "\xff", "".join(lines) + "\n"):
        (folder / CHECKSUMS).write_text(text, encoding="latin-1")
        with pytest.raises(ValueError, match=f"{CHECKSUMS}: expected a .*; write the dataset again"):
            ss.read_dataset(folder)


def test_class_folders_are_those_in_masks(tmp_path, small):
    folder = ss.write_dataset(tmp_path / "set", small, count=1)
    for classes in (["../images"], [str(folder / "images")], ["circle/../quad"], ["circle", "circle"], ["circle/"], [".."]):
        with pytest.raises(ValueError, match="classes: expected different names of folders in masks/"):
            ss.read_dataset(folder, classes)
    with pytest.raises(ValueError, match="folder: expected a directory"):
        ss.read_dataset(folder / CHECKSUMS)


def test_wrong_arguments(tmp_path, small):
    images, masks = ss.draw_scenes(small, 1, range(2))
    for call, words in [
        (lambda: ss.draw_scenes(small, 0, 5), "indices: expected several whole numbers"),
        (lambda: ss.stream(small, batch_size=0), "batch_size: expected a whole number from 1, got 0"),
        (lambda: ss.stream(small, start=-1), "start: "), (lambda: ss.stream(small, count=True), "count: "),
        (lambda: ss.stream((images, masks), seed=-1), "seed: "), (lambda: ss.stream(small, count=2.5), "count: "),
        (lambda: ss.stream(small, repeat=0), "repeat: "), (lambda: ss.stream("article"), "data: "),
        (lambda: ss.stream((images.astype(float), masks)), "images: expected .* uint8"),
        (lambda: ss.stream((images[..., 0], masks)), "images: expected"),
        (lambda: ss.stream((images, masks.astype(float))), "masks: .* threshold probabilities first"),
        (lambda: ss.stream((images, masks[:1])), "masks: expected"),
        (lambda: ss.write_dataset(tmp_path / "x", small, count=0), "count: "),
        (lambda: ss.read_dataset(tmp_path, []), "classes: expected at least one name"),
    ]:
        with pytest.raises(ValueError, match=words):
            call()
