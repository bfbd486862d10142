"""Many scenes or image files: as arrays, as a stream of batches, as a folder on disk."""

import itertools
import warnings
from concurrent.futures import ThreadPoolExecutor
from operator import attrgetter
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from shapeseg.figures import CLASSES
from shapeseg.scenes import ARTICLE, SceneConfig, check_key, draw_scene
from shapeseg.utils import atomic_write, check_names, expect, is_int, resolve_path

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
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


def stream(data=ARTICLE, seed=0, batch_size=16, start=0, count=None, split="train", dataset_size=None):
    """Batches (images, masks), drawn by a thread while the caller works, anew in each loop; a ValueError names a wrong argument.

    data : SceneConfig, for its scenes `start`, `start` + 1, … of `seed` and `split`; or images (N, H, W, C) uint8 and masks
        (N, H, W, K) bool, gone through again and again, each time in another order, which depends on `seed` alone
    batch_size, count : int, scenes per batch and in all, None for a stream without end; the last batch may be smaller
    start : int, the first scene: the stream from `start` is the tail of the stream from 0
    dataset_size : int, go through so many scenes of the config again and again, as through arrays; None for new ones
    """
    for name, value, min_ in (("seed", seed, 0), ("batch_size", batch_size, 1), ("start", start, 0), ("count", count, 0),
                              ("dataset_size", dataset_size, 1)):
        expect(is_int(value, min_) or value is None and name in ("count", "dataset_size"), name, f"an integer from {min_}", value)
    if isinstance(data, SceneConfig):
        check_key(data, seed, split)
        return Batches(lambda n: arrays_of(draw_scene(data, seed, n, split)), seed, batch_size, start, count, dataset_size)
    images, masks = check_pair(data)
    return Batches(lambda n: (images[n], masks[n]), seed, batch_size, start, count, len(images))


class Batches:
    """Batches of the arrays that `load` gives for each index, loaded by another thread while the caller works."""

    def __init__(self, load, seed, batch_size, start=0, count=None, dataset_size=None):
        self.load, self.seed, self.batch_size, self.start, self.count, self.dataset_size = (
            load, seed, batch_size, start, count, dataset_size)

    def __iter__(self):
        places, loading = itertools.islice(itertools.count(int(self.start)), self.count), []
        with ThreadPoolExecutor(1) as pool:  # a second thread would take more time away from a training step than it saves
            while batch := [*itertools.islice(places, self.batch_size)]:
                loading.append(pool.submit(self.load_batch, batch))
                if len(loading) == 2:
                    yield loading.pop(0).result()
            yield from (batch.result() for batch in loading)

    def load_batch(self, places):
        indices = places if self.dataset_size is None else map(self.shuffled, places)
        return tuple(map(np.stack, zip(*map(self.load, indices))))

    def shuffled(self, n):
        """The index in place n of a dataset of limited size, which is gone through in a new order each round."""
        round_, place = divmod(n, self.dataset_size)
        return int(np.random.RandomState([self.seed, round_ % 2**32]).permutation(self.dataset_size)[place])


def check_pair(data, name="data"):
    expect(isinstance(data, (tuple, list)) and len(data) == 2, name, "arrays (images, masks)" + " or a SceneConfig" * (name == "data"), data)
    images, masks = check_images(data[0]), np.asarray(data[1])
    expect(masks.ndim == 4 and masks.dtype == bool and masks.shape[:3] == images.shape[:3] and masks.size, "masks",
           f"{images.shape[:3] + ('K',)} bool to match the images", masks, "threshold probabilities first, for example p > 0.5")
    return images, masks


def check_images(images, channels=None):
    images = np.asarray(images)
    expect(images.ndim == 4 and images.dtype == np.uint8 and images.size and channels in (None, images.shape[-1]), "images",
           f"(N, H, W, {channels or 'C'}) uint8", images, "one grey image becomes such an array by image[None, ..., None]")
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

    The folder holds images/NAME.png, grey or RGB, and for each of the `classes` masks/CLASS/NAME.png, above 127 where the class is:
    PNG, JPEG or TIFF of 8 bits per channel, all of one size. A relative path counts from the current directory. Raises
    FileNotFoundError if there are no images or one lacks a mask, ValueError if a file cannot be read or is of another kind.
    """
    classes, folder = check_names(classes), resolve_path(folder, "folder", Path.cwd())
    expect(len({*classes}) == len(classes) and all(Path(c).name == c for c in classes), "classes", "different folders", classes)
    paths, *of_class = [_files(folder / part) for part in ("images", *(f"masks/{name}" for name in classes))]
    if not paths:
        raise FileNotFoundError(f"folder: found no images in {folder / 'images'}; expected NAME.png files there")
    for name, files in zip(classes, of_class):
        if missing := sorted(paths.keys() - files.keys()):
            raise FileNotFoundError(f"{folder / 'masks' / name / missing[0]}.png is not there; each image needs one mask per class")
    images, masks = [], []
    for stem, path in paths.items():
        images.append(read_image(path))
        masks.append([read_image(files[stem]) for files in of_class])
        expect(images[-1].shape == images[0].shape, path, f"{images[0].shape} as the first image", images[-1], "make them alike")
        for files, mask in zip(of_class, masks[-1]):
            expect(mask.shape[:2] == images[0].shape[:2], files[stem], f"the size of the image, {images[0].shape[:2]}", mask)
            expect((mask == mask[..., :1]).all(), files[stem], "a grey mask", "colours", "give each class a file of its own")
            expect(not 0 < mask.max() <= 127, files[stem], "0 and 255", f"{mask.min()} to {mask.max()}", "multiply 0 and 1 by 255")
    return np.stack(images), np.stack([np.stack([mask[..., 0] for mask in of_image], -1) for of_image in masks]) > 127


def _files(folder):
    files = {}  # from an image's name without its suffix to its path
    for path in sorted(folder.glob("[!.]*")):
        expect(path.suffix.lower() in SUFFIXES, folder, f"images alone ({', '.join(SUFFIXES)})", path.name, "convert or remove it")
        expect(path.stem not in files, folder, "one image of each name", f"{path.stem} twice", "remove one")
        files[path.stem] = path
    return files


def read_image(path):
    """Read a PNG, JPEG or TIFF file as (H, W, C) uint8, upright; C is 1 (grey) or 3 (red, green, blue, also from a palette)."""
    try:  # an error is also what a file is warned of that claims to be huge, or that lies in another way
        with warnings.catch_warnings(action="error"), Image.open(path, formats=("PNG", "JPEG", "TIFF")) as file:
            frames, image = getattr(file, "n_frames", 1), ImageOps.exif_transpose(file)
    except Exception as error:
        raise ValueError(f"{path}: expected a PNG, JPEG or TIFF file, and it cannot be read ({error!r}); write it again") from error
    expect(frames == 1, path, "one image", f"{frames} in one file", "write each to a file of its own")
    expect(image.mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"), path, "8 bits of grey or RGB", f"Pillow's mode {image.mode}")
    array = np.asarray(image.convert("LA" if image.mode in ("1", "L", "LA") else "RGBA"))
    expect(array[..., -1].min() == 255, path, "an opaque image", "a partly transparent one", "put it on a ground of one colour")
    return array[..., :-1]
