"""Many scenes or image files: as arrays, as a stream of batches, as a folder on disk."""

import itertools
import unicodedata
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from operator import attrgetter
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageOps
from scipy import ndimage
from tqdm import tqdm

from shapeseg import augmentation
from shapeseg.figures import CLASSES, check_names
from shapeseg.scenes import ARTICLE, SceneConfig, check_key, draw_scene
from shapeseg.utils import atomic_write, expect, is_int, resolve_path

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
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
        (N, H, W, K) bool, gone through again and again, each time in another order, which depends on `seed` alone
    batch_size, start, count : int, scenes per batch, which the last may have fewer of; the first scene; scenes in all, None: no end
    dataset_size : int, go through so many scenes of the config again and again, as through arrays; None for new ones
    augment, crop : bool, int, change each image and its masks as `augment` does; a scene of a config is then used four times
    """
    for name, value, min_ in (("seed", seed, 0), ("batch_size", batch_size, 1), ("start", start, 0), ("count", count, 0),
                              ("dataset_size", dataset_size, 1)):
        expect(is_int(value, min_) or value is None and name in ("count", "dataset_size"), name, f"an integer from {min_}", value)
    expect(isinstance(augment, bool), "augment", "True or False", augment)
    expect(crop is None or augment and is_int(crop, 16), "crop", "None or, beside augment=True, an integer from 16", crop)
    expect(dataset_size is None or isinstance(data, SceneConfig), "dataset_size", "None for arrays, which have their size", dataset_size)
    if isinstance(data, SceneConfig):
        check_key(data, seed, split)
        return Batches(lambda n: arrays_of(draw_scene(data, seed, n, split)), seed, batch_size, start, count, dataset_size, augment, crop)
    images, masks = check_pair(data)
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
    expect(isinstance(data, (tuple, list)) and len(data) == 2, name, "arrays (images, masks)" + " or a SceneConfig" * (name == "data"), data)
    images, masks = check_images(data[0]), np.asarray(data[1])
    expect(masks.ndim == 4 and masks.dtype == bool and masks.shape[:3] == images.shape[:3] and masks.size, "masks",
           f"({', '.join(map(str, images.shape[:3]))}, K) bool to match the images", masks, "p > 0.5 makes masks of probabilities, "
           "labels[..., None] == range(1, K + 1) of label images, masks > 0 of 0 and 1")
    return images, masks


def check_images(images, channels=None):
    sizes = {np.shape(image) for image in images} if isinstance(images, (list, tuple)) else ()
    expect(len(sizes) < 2, "images", "all of one size", f"the sizes {sizes}", "give them one at a time, or bring them to one size before")
    images = np.asarray(images)
    advice = "x.mean(-1, keepdims=True).astype(np.uint8) makes RGB grey, build_model(channels=3) takes RGB"
    if images.ndim != 4:
        advice = "image[None] makes a batch of one, image[..., None] a channel of grey"
    elif images.dtype != np.uint8:
        advice = "(255 * x).astype(np.uint8) has the levels of x in [0, 1], x // 257 those of 16 bits"
    expect(images.ndim == 4 and images.dtype == np.uint8 and images.size and channels in (None, images.shape[-1]), "images",
           f"(N, H, W, {channels or 'C'}) uint8", images, advice)
    return images


def write_dataset(folder, config=ARTICLE, seed=0, count=16, split="train"):
    """Write `count` scenes as images/00000.png and masks/CLASS/00000.png; return the folder. FileExistsError if it is there."""
    folder = resolve_path(folder, "folder", Path.cwd())
    expect(is_int(count, 1, 10**5), "count", "an integer from 1 to 100000", count)
    check_key(config, seed, split)
    if folder.exists():
        raise FileExistsError(f"folder: {folder} is there already; give a new name or delete it")
    with atomic_write(folder) as partial:
        parts = [partial / part for part in ("images", *(f"masks/{name}" for name in config.classes))]
        for part in parts:
            part.mkdir(parents=True)
        for index in tqdm(range(count), "scenes written"):
            scene = draw_scene(config, seed, index, split)
            for part, array in zip(parts, (scene.image.squeeze(), *np.moveaxis(scene.masks, -1, 0) * np.uint8(255))):
                Image.fromarray(array).save(part / f"{index:05}.png")
    return folder


def read_dataset(folder, classes=CLASSES):
    """Read images (N, H, W, C) uint8, in the order of their names, and masks (N, H, W, K) bool that any tool wrote.

    The folder, a path from the current directory, holds images/NAME.png, grey or RGB, all of one size, and for each of the `classes`
    masks/CLASS/NAME.png: 0, and one more level where the class is; its edges may be soft. PNG, JPEG or TIFF; 16 bits per channel are
    scaled to 8 by each image's own range. Raises FileNotFoundError if an image or a mask is missing, ValueError if one is no such file.
    """
    classes, folder = check_names(classes), resolve_path(folder, "folder", Path.cwd())
    paths, *of_class = [_files(resolve_path(part, start=folder)) for part in ("images", *(f"masks/{name}" for name in classes))]
    if not paths:
        raise FileNotFoundError(f"folder: found no images in {folder / 'images'}; expected NAME.png files there")
    for name, files in zip(classes, of_class):
        if missing := sorted(paths.keys() - files.keys()):
            raise FileNotFoundError(f"{folder / 'masks' / name / missing[0]}.png is not there; each image needs one mask per class")
    images, masks, deep = [], [], 0
    for stem, path in paths.items():
        image = read_image(path)
        if image.dtype != np.uint8:
            low, deep = float(image.min()), deep + 1
            image = np.rint((image - low) * (255 / max(image.max() - low, 1))).astype(np.uint8)
        images.append(image)
        expect(image.shape == images[0].shape, path, f"{images[0].shape} as the first image", image, "bring all to one size and one "
               "number of channels before, for example by Pillow's Image.crop and Image.convert")
        masks.append(np.stack([read_mask(files[stem]) for files in of_class], axis=-1))
        expect(masks[-1].shape[:2] == image.shape[:2], path, "masks of its size", masks[-1])
    if deep:
        print(f"{folder}: {deep} of {len(images)} images have 16 bits per channel; each is scaled to 8 by its own range")
    for name, share in zip(classes, np.mean(masks, axis=(1, 2)).min(axis=0)):
        if share > 0.75:
            warnings.warn(f"masks: {name} covers at least {share:.0%} of every image; if 0 marks it, invert them: ~masks", stacklevel=2)
    return np.stack(images), np.stack(masks)


def _files(folder):
    files = {}  # from an image's name without its suffix, as it is shown, to its path
    for path in sorted(folder.glob("[!.]*")):
        stem = unicodedata.normalize("NFC", path.stem)
        expect(path.suffix.lower() in SUFFIXES, folder, f"images alone ({', '.join(SUFFIXES)})", path.name, "convert or remove it")
        expect(stem not in files, folder, "one image of each name", f"{stem} twice", "remove one")
        files[stem] = path
    return files


def read_image(path, colours=True):
    """Read a PNG, JPEG or TIFF file, upright: (H, W, C), C 1 (grey) or 3 (RGB), uint8 or uint16; or, not `colours`, a palette's indices."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of a camera's notes, say
            warnings.filterwarnings("error", "Metadata Warning, tag (25[6-9]|262|27[3789]) ")  # a TIFF's own size and data
            with Image.open(path, formats=("PNG", "JPEG", "TIFF")) as file:
                frames = 1 if file.format == "MPO" else getattr(file, "n_frames", 1)  # some phones add a preview
                bands, deep = getattr(file, "tag_v2", {}).get(277, 0), "RGB" in file.mode and ";16" in str(file.tile[0].args)
                image = ImageOps.exif_transpose(file)
            if deep:  # Pillow keeps the upper of two bytes; told that the two are in the other order, it keeps the lower
                with Image.open(path) as file:
                    raw, *rest = file.tile[0].args if isinstance(file.tile[0].args, tuple) else [file.tile[0].args]
                    raw = raw[:-1] + {"B": "L", "L": "B", "N": "B"}[raw[-1]]
                    file.tile = [tile._replace(args=(raw, *tile.args[1:]) if rest else raw) for tile in file.tile]
                    lower = np.asarray(ImageOps.exif_transpose(file))[..., :3]
    except Exception as error:
        bands, advice = 0, "cut it into pieces, or raise PIL.Image.MAX_IMAGE_PIXELS" if "exceeds limit" in str(error) else "write it again"
        with suppress(Exception):  # Pillow knows no TIFF of several bands without colours
            bands = tifffile.TiffFile(path).pages[0].samplesperpixel
        raise ValueError(f"{path}: expected grey or RGB as PNG, JPEG or TIFF, and it cannot be read ({error!r}"
                         f"{f', {bands} bands' * (bands > 3)}); {advice}") from None
    expect(frames == 1, path, "one image", f"{frames} in one file", "write each to a file of its own")
    expect(bands <= len(image.getbands()), path, "grey or RGB", f"{bands} bands", "write those that you need as grey or RGB")
    grey, mode = image.mode in ("1", "L", "LA"), image.mode
    expect(grey or mode in ("P", "PA", "RGB", "RGBA", "I;16", "I;16B"), path, "8 or 16 bits of grey or RGB", f"Pillow's mode {mode}",
           "convert it to one of these")
    if mode.startswith("I;16") or mode == "P" and not colours:
        return np.asarray(image, np.uint8 if mode == "P" else np.uint16)[..., None]
    array = np.asarray(image.convert("LA" if grey else "RGBA"))
    expect(array[..., -1].min() == 255, path, "an opaque image", f"{len(image.getbands())} bands, of which the last, opacity, is not full "
           "everywhere", "put it on a ground of one colour, or write the other bands alone")
    return array[..., :3] * np.uint16(256) + lower if deep else array[..., :-1]


def read_mask(path):
    """Read a mask file, (H, W) bool, or raise a ValueError if it holds more than a class and its soft edges."""
    mask = read_image(path, colours=False)
    expect((mask == mask[..., :1]).all(), path, "a grey mask", "colours", "give each class a file of its own")
    mask, levels, lossy = mask[..., 0], np.unique(mask), path.suffix.lower() in (".jpg", ".jpeg")
    if len(levels) == 1 or not lossy and len(levels) == 2 and levels[0] == 0:
        return mask > 0
    between = (mask > 0) & (mask < levels[-1])
    flat = between & (ndimage.minimum_filter(mask, 3) == ndimage.maximum_filter(mask, 3))  # 3 × 3 pixels of one level are no edge
    far = between & (ndimage.distance_transform_edt(mask < levels[-1]) > 48)
    soft = lossy or len(levels) > 4 and flat.sum() <= 0.1 * between.sum() and not far.any()
    names, frequent = ", ".join(map(str, levels[:6])) + ", …" * (len(levels) > 6), np.bincount(mask[mask > 0]).argmax()
    expect(soft and levels[-1] > 127, path, "0, and one level more where the class is", f"the levels {names}", "write what they mean: "
           f"(mask > 0) * 255 if all but 0 are the class, (mask == {frequent}) * 255 if one of them is")
    return mask > 127
