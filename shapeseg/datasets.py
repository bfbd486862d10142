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
from shapeseg.utils import expect, is_int, is_number, random_key

LOOKS, POOL = 4, 32  # a drawn scene is changed at random so many times, in turn with so many others
arrays_of = attrgetter("image", "masks")  # of a scene


def draw_scenes(config=ARTICLE, seed=0, indices=range(16), split="train"):
    """Draw scenes as `draw_scene` does: images (N, H, W, C) uint8, masks (N, H, W, K) bool; a ValueError names a wrong argument."""
    check_key(config, seed, split)
    expect(np.ndim(indices) == 1 and all(map(is_int, indices)), "indices", "integers from 0, for example range(16)", indices)
    images = np.empty((len(indices), config.size, config.size, config.channels), np.uint8)
    masks = np.empty((*images.shape[:3], len(config.classes)), bool)
    for n, index in enumerate(indices):
        images[n], masks[n] = arrays_of(draw_scene(config, seed, index, split))
    return images, masks


def stream(data=ARTICLE, seed=0, batch_size=16, start=0, count=None, split="train", dataset_size=None, augment=False, crop=None):
    """Batches (images, masks), drawn by a thread while the caller works, anew in each loop; a ValueError names a wrong argument.

    data : SceneConfig, for its scenes `start`, `start` + 1, … of `seed` and `split`; or images (N, H, W, C) uint8 and masks
        (N, H, W, K) bool, gone through again and again, each time in another order, which depends on `seed` alone; lists of images
        and masks of different sizes need a crop, or a batch_size of 1
    batch_size, start, count : int, scenes per batch, which the last may have fewer of; the first scene; scenes in all, None: no end
    dataset_size : int, go through so many scenes of the config again and again, as through arrays; None for new ones
    augment, crop : bool, int, change each image and its masks as `augment` does; a scene of a config is then used four times
    """
    for name, value, min_ in (("seed", seed, 0), ("batch_size", batch_size, 1), ("start", start, 0), ("count", count, 0),
                              ("dataset_size", dataset_size, 1)):
        expect(is_int(value, min_) or value is None and name in ("count", "dataset_size"), name, f"an integer from {min_}", value)
    expect(isinstance(augment, bool) and (augment or crop is None), "augment", "True or False, and True beside a crop", augment)
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
        if not self.augment:
            return self.load(n if self.dataset_size is None else self.shuffled(n))
        index = n // (LOOKS * POOL) * POOL + n % POOL if self.dataset_size is None else self.shuffled(n)
        return augmentation.augment(*self.load(index), self.seed, n, self.crop)

    def shuffled(self, n):
        """The index in place n of a dataset of limited size, which is gone through in a new order each round."""
        round_, place = divmod(n, self.dataset_size)
        return int(np.random.RandomState([self.seed, round_ % 2**32]).permutation(self.dataset_size)[place])


def check_pair(data, name="data"):
    expect(isinstance(data, (tuple, list)) and len(data) == 2, name, "(images, masks)" + " or a SceneConfig" * (name == "data"), data)
    images, masks = check_images(data[0]), data[1]
    masks = np.asarray(masks) if isinstance(images, np.ndarray) else [*map(np.asarray, masks)]
    shape = (*images.shape[:3], "K") if isinstance(images, np.ndarray) else "a list of (H, W, K)"
    good = len(masks) == len(images) and all(mask.ndim == 3 and mask.dtype == bool and mask.size and mask.shape[:2] == image.shape[:2]
                                             and mask.shape[-1] == masks[0].shape[-1] for image, mask in zip(images, masks))
    expect(good, "masks", f"{shape} bool to match the images", masks,
           "p > 0.5 makes masks of probabilities, labels[..., None] == range(1, K + 1) of label images")
    return images, masks


def check_images(images, channels=None):
    """An array (N, H, W, C) uint8 or, if their sizes differ, a list of arrays (H, W, C)."""
    alike = not isinstance(images, (list, tuple)) or len({*map(np.shape, images)}) == 1
    images = np.asarray(images) if alike else [*map(np.asarray, images)]
    good = np.ndim(images[0]) == 3 and channels in (None, images[0].shape[-1]) and all(
        image.dtype == np.uint8 and image.size and image.ndim == 3 and image.shape[-1] == images[0].shape[-1] for image in images)
    expect(good, "images", f"(N, H, W, {channels or 'C'}) uint8, or a list of (H, W, {channels or 'C'})", images if alike else images[0],
           "image[None] makes a batch of one, image[..., None] a channel of grey, (255 * x).astype(np.uint8) levels of [0, 1]")
    return images


def split_dataset(images, masks, validation=0.2, test=0.2, seed=0):
    """Split a dataset at random: three pairs (images, masks), to train with, to choose by, and to test with once, at the end.

    images, masks : as `read_dataset` returns them
    validation, test : float in [0, 1), the share of the images; at least one, unless it is 0

    Near duplicates (the same picture, or it scaled or saved again) stay in one part, and are told in a line. Raises a ValueError.
    """
    images, masks = check_pair((images, masks), "images and masks")
    expect(is_number(validation, 0) and is_number(test, 0) and validation + test < 1, "validation and test", "shares with a sum below 1",
           (validation, test))
    group = np.arange(len(images))
    for i, j in find_duplicates(images):
        group[group == group[j]] = group[i]
    if len({*group}) < len(images):
        same = [np.flatnonzero(group == n).tolist() for n in np.unique(group) if (group == n).sum() > 1]
        print(f"near duplicates stay together: images {', '.join(map(str, same))}")
    order = random_key("split", seed).permutation(np.unique(group))
    parts, wanted = ([], [], []), (0, *(max(1, round(share * len(images))) if share else 0 for share in (validation, test)))
    for number in order:
        part = next((n for n in (2, 1) if len(parts[n]) < wanted[n]), 0)
        parts[part].extend(np.flatnonzero(group == number))
    expect(parts[0], "images", f"enough for {sum(share > 0 for share in (1, validation, test))} parts that share no picture", images)
    return tuple((_take(images, sorted(part)), _take(masks, sorted(part))) for part in parts)


def _take(items, indices):
    return items[indices] if isinstance(items, np.ndarray) else [items[n] for n in indices]


def find_duplicates(images, others=None):
    """Pairs (i, j) of images that show the same picture, i < j; or, of two sets, i in the first and j in the second."""
    def describe(image):  # what is left of it at 32 × 32, without its light and contrast
        grey = Image.fromarray(image.mean(axis=-1).astype(np.uint8)).resize((32, 32), Image.Resampling.BOX)
        small = (grey - ndimage.uniform_filter(np.asarray(grey, float), 9)).ravel()
        return small / max(np.linalg.norm(small), 1e-9)

    first = np.stack([*map(describe, images)])
    alike = first @ (first if others is None else np.stack([*map(describe, others)])).T > 0.99
    return np.argwhere(np.triu(alike, 1) if others is None else alike).tolist()
