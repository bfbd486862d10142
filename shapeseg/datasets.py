"""Many images and their masks: as arrays, as a stream of batches, split in parts."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from operator import attrgetter

import numpy as np
from PIL import Image
from scipy import ndimage

from shapeseg import augmentation
from shapeseg.scenes import ARTICLE, SceneConfig, check_key, draw_scene
from shapeseg.utils import expect, is_int, random_key

arrays_of = attrgetter("image", "masks")  # of a scene
LOOKS, POOL = 4, 32  # a drawn scene is changed at random so many times, in turn with so many others


def draw_scenes(config=ARTICLE, seed=0, indices=range(16), split="train"):
    """Draw scenes as `draw_scene` does: images (N, H, W, C) uint8, masks (N, H, W, K) bool; a ValueError names a wrong argument."""
    check_key(config, seed, split)
    scenes = [draw_scene(config, seed, index, split) for index in indices]
    return np.stack([scene.image for scene in scenes]), np.stack([scene.masks for scene in scenes])


def stream(data=ARTICLE, seed=0, batch_size=16, start=0, count=None, split="train", dataset_size=None, augment=False, crop=None):
    """Batches (images, masks), drawn by a thread while the caller works, anew in each loop; a ValueError names a wrong argument.

    data : SceneConfig, for its scenes `start`, `start` + 1, … of `seed` and `split`; or (images, masks), (N, H, W, C) uint8 and
        (N, H, W, K) bool, again and again in orders that `seed` decides; lists of different sizes need a crop, or a batch_size of 1
    batch_size, start, count : int, scenes per batch, which the last may have fewer of; the first scene; scenes in all, None: no end
    dataset_size : int, go through so many scenes of the config again and again, as through arrays; None for new ones
    augment, crop : bool, int, change each image and its masks as `augment` does; a scene of a config is then used four times
    """
    for name, value, min_ in (("seed", seed, 0), ("batch_size", batch_size, 1), ("start", start, 0), ("count", count, 0),
                              ("dataset_size", dataset_size, 1)):
        expect(is_int(value, min_) or value is None and name in ("count", "dataset_size"), name, f"an integer from {min_}", value)
    expect(crop is None or augment and is_int(crop, 16), "crop", "None or, beside augment=True, an integer from 16", crop)
    expect(dataset_size is None or isinstance(data, SceneConfig), "dataset_size", "None for arrays, which have their size", dataset_size)
    if isinstance(data, SceneConfig):
        check_key(data, seed, split)
        return Batches(lambda n: arrays_of(draw_scene(data, seed, n, split)), seed, batch_size, start, count, dataset_size, augment, crop)
    images, masks = check_pair(data)
    expect(isinstance(images, np.ndarray) or crop or batch_size == 1, "crop", "a side in pixels for images of different sizes", crop)
    return Batches(lambda n: (images[n], masks[n]), seed, batch_size, start, count, len(images), augment, crop)


class Batches:
    """Batches of the arrays that `load` gives for each index, loaded by another thread while the caller works."""
    def __init__(self, load, seed, batch_size, start=0, count=None, dataset_size=None, augment=False, crop=None):
        self.seed, self.batch_size, self.start, self.count, self.dataset_size = seed, batch_size, start, count, dataset_size
        self.load, self.augment, self.crop = lru_cache(POOL)(load) if augment and not dataset_size else load, augment, crop

    def __iter__(self):
        places, loading = itertools.islice(itertools.count(int(self.start)), self.count), []
        with ThreadPoolExecutor(1) as pool:  # a second thread would take more time away from a training step than it saves
            while batch := [*itertools.islice(places, self.batch_size)]:
                loading.append(pool.submit(self.load_batch, batch))
                if len(loading) == 2:
                    yield loading.pop(0).result()
            yield from (batch.result() for batch in loading)

    def load_batch(self, places):
        return tuple(map(np.stack, zip(*map(self.load_one, places))))

    def load_one(self, n):
        if self.dataset_size:  # gone through in a new order each round
            round_, place = divmod(n, self.dataset_size)
            index = int(np.random.RandomState([self.seed, round_]).permutation(self.dataset_size)[place])
        else:
            index = n // (LOOKS * POOL) * POOL + n % POOL if self.augment else n
        arrays = self.load(index)
        return augmentation.augment(*arrays, self.seed, n, self.crop) if self.augment else arrays


def check_pair(data, name="data"):
    """Images as `check_images` returns them and, likewise, their masks (N, H, W, K) or (H, W, K) bool."""
    expect(isinstance(data, (tuple, list)) and len(data) == 2, name, "(images, masks)" + " or a SceneConfig" * (name == "data"), data)
    images, masks = check_images(data[0]), [*map(np.asarray, data[1])]
    good = len(masks) == len(images) and all(mask.ndim == 3 and mask.dtype == bool and mask.shape[:2] == image.shape[:2]
                                             for image, mask in zip(images, masks)) and len({mask.shape[-1] for mask in masks}) == 1
    stacked = isinstance(images, np.ndarray)
    expect(good, "masks", f"{'(N, H, W, K)' if stacked else 'a list of (H, W, K)'} bool to match the images", data[1],
           "p > 0.5 makes masks of probabilities, labels[..., None] == range(1, K + 1) of label images, masks > 0 of 0 and 1")
    return images, np.asarray(data[1]) if stacked else masks


def check_images(images, channels=None):
    """An array (N, H, W, C) uint8 or, if their sizes differ, a list of arrays (H, W, C)."""
    parts = [*map(np.asarray, images)] if np.iterable(images) else []
    good = parts and all(image.dtype == np.uint8 and image.ndim == 3 and image.size for image in parts) and (
        {image.shape[-1] for image in parts} == {channels or parts[0].shape[-1]})
    advice = "image[None] is a batch of one, image[..., None] has a channel of grey"
    if parts and parts[0].ndim == 3:
        advice = "(255 * x).astype(np.uint8) has the levels of x in [0, 1], x // 257 those of 16 bits" if parts[0].dtype != np.uint8 else (
            "x.mean(-1, keepdims=True).astype(np.uint8) makes RGB grey, build_model(channels=3) takes RGB")
    expect(good, "images", f"(N, H, W, {channels or 'C'}) uint8, or a list of (H, W, {channels or 'C'})", images, advice)
    return np.asarray(images) if len({image.shape for image in parts}) == 1 else parts


def split_dataset(images, masks, validation=0.2, test=0.2, seed=0):
    """Split a dataset at random: three pairs (images, masks), to train with, to choose by, and to test with once, at the end.

    images, masks : as `read_dataset` returns them; near duplicates (the same picture, scaled or saved again) stay in one part
    validation, test : float in [0, 1), the share of the images; at least one, unless it is 0; a ValueError if that is too much
    """
    images, masks = check_pair((images, masks), "images and masks")
    expect(min(validation, test) >= 0 and validation + test < 1, "validation and test", "shares with a sum below 1", (validation, test))
    group = np.arange(len(images))
    for i, j in find_duplicates(images):
        group[group == group[j]] = group[i]
    if same := [np.flatnonzero(group == n).tolist() for n in {*group} if (group == n).sum() > 1]:
        print(f"near duplicates stay together: images {', '.join(map(str, sorted(same)))}")
    wanted = [0, *(max(1, round(share * len(images))) if share else 0 for share in (validation, test))]
    parts = [], [], []
    for some in sorted((np.flatnonzero(group == n) for n in random_key("split", seed).permutation(np.unique(group))), key=len):
        free = [part for part in (2, 1) if len(parts[part]) + len(some) <= wanted[part] or wanted[part] and not parts[part]]
        parts[free[0] if free else 0].extend(some)  # a long series is to train
    expect(parts[0], "images", "enough for parts that share no picture", f"{len({*group})} different ones")

    def take(items, part):
        return items[sorted(part)] if isinstance(items, np.ndarray) else [items[n] for n in sorted(part)]
    return tuple((take(images, part), take(masks, part)) for part in parts)


def find_duplicates(images, others=None):
    """Pairs (i, j) of images that show the same picture, i < j; or, of two sets, i in the first and j in the second."""
    def describe(image):  # what is left of it at 32 × 32, without its light and contrast
        grey = Image.fromarray(image.mean(axis=-1).astype(np.uint8)).resize((32, 32), Image.Resampling.BOX)
        small = (grey - ndimage.uniform_filter(np.asarray(grey, float), 9)).ravel()
        return small / max(np.linalg.norm(small), 1e-9)
    first = np.stack([*map(describe, images)])
    alike = first @ (first if others is None else np.stack([*map(describe, others)])).T > 0.99
    return np.argwhere(np.triu(alike, 1) if others is None else alike).tolist()
