"""Many scenes or image files: as arrays, as a stream of batches, as a folder on disk."""

import warnings
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from shapeseg.figures import CLASSES
from shapeseg.scenes import ARTICLE, SceneConfig, check_key, draw_scene
from shapeseg.utils import atomic_write, check_names, expect, is_int, resolve_path

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


def draw_scenes(config=ARTICLE, seed=0, indices=range(16), split="train"):
    """Draw several scenes, as `draw_scene` draws each, into two arrays: images (N, H, W, C) uint8, masks (N, H, W, K) bool."""
    check_key(config, seed, split)
    expect(np.ndim(indices) == 1 and all(map(is_int, indices)), "indices", "integers from 0, for example range(16)", indices)
    size = (len(indices), config.size, config.size)
    images, masks = np.empty((*size, config.channels), np.uint8), np.empty((*size, len(config.classes)), bool)
    for n, index in enumerate(indices):
        scene = draw_scene(config, seed, index, split)
        images[n], masks[n] = scene.image, scene.masks
    return images, masks


def stream(data=ARTICLE, seed=0, batch_size=16, start=0, count=None, split="train", dataset_size=None):
    """Batches of images and masks, drawn by another thread while the caller works on the batch before.

    Parameters
    ----------
    data : SceneConfig or (images, masks); a config draws scene `start`, `start` + 1, … of `seed` and `split`; arrays (N, H, W, C)
        uint8 and (N, H, W, K) bool are gone through again and again, each time in another order, which depends on `seed` alone
    batch_size : int, scenes per batch; the last one of a finite stream may be smaller
    start : int, the first scene: the stream from `start` is the tail of the stream from 0
    count : int, scenes in all; None for a stream without end
    dataset_size : int, go through so many scenes of the config again and again, as through arrays; None for new ones

    Returns an iterable of (images, masks), each iteration of which begins anew; raises a ValueError if an argument is not as above.
    """
    for name, value, min_ in (("seed", seed, 0), ("batch_size", batch_size, 1), ("start", start, 0), ("count", count, 0),
                              ("dataset_size", dataset_size, 1)):
        expect(is_int(value, min_) or value is None and name in ("count", "dataset_size"), name, f"an integer from {min_}", value)
    if isinstance(data, SceneConfig):
        check_key(data, seed, split)

        def load(n):
            scene = draw_scene(data, seed, n, split)
            return scene.image, scene.masks
    else:
        images, masks = check_pair(data)
        dataset_size, load = len(images), lambda n: (images[n], masks[n])
    return Batches(load, seed, batch_size, start, count, dataset_size)


@dataclass(frozen=True)
class Batches:
    """Batches of the arrays that `load` gives for each index, loaded by another thread two batches ahead."""

    load: callable
    seed: int
    batch_size: int
    start: int = 0
    count: int = None
    dataset_size: int = None

    def __iter__(self):
        end = None if self.count is None else self.start + self.count
        start, batches = int(self.start), deque()
        # A thread is enough: NumPy and TensorFlow let others run while they compute. A second one would
        # take more time away from a training step than it saves.
        with ThreadPoolExecutor(1) as pool:
            while True:
                while len(batches) < 2 and (end is None or start < end):
                    stop = min(start + self.batch_size, start + self.batch_size if end is None else end)
                    batches.append([pool.submit(self.load, self.index(n)) for n in range(start, stop)])
                    start = stop
                if not batches:
                    return
                yield tuple(map(np.stack, zip(*(future.result() for future in batches.popleft()))))

    def index(self, n):
        """Which scene comes in place n: n itself or, in a dataset of limited size, that of a new permutation each round."""
        if self.dataset_size is None:
            return n
        round_, place = divmod(n, self.dataset_size)
        return int(np.random.RandomState([self.seed, round_ % 2**32]).permutation(self.dataset_size)[place])


def check_pair(data, name="data"):
    """Return images and masks as arrays, or raise a ValueError that says what is wrong with them."""
    expect(isinstance(data, (tuple, list)) and len(data) == 2, name, "a SceneConfig or two arrays (images, masks)", data)
    images, masks = check_images(data[0]), np.asarray(data[1])
    expect(masks.ndim == 4 and masks.dtype == bool and masks.shape[:3] == images.shape[:3] and masks.size, "masks",
           f"{images.shape[:3] + ('K',)} bool to match the images", masks, "threshold probabilities first, for example p > 0.5")
    return images, masks


def check_images(images, channels=None):
    """Return images as an array, or raise a ValueError unless they are (N, H, W, C) uint8."""
    images = np.asarray(images)
    expect(images.ndim == 4 and images.dtype == np.uint8 and images.size and channels in (None, images.shape[-1]), "images",
           f"(N, H, W, {channels or 'C'}) uint8", images, "one grey image becomes such an array by image[None, ..., None]")
    return images


def write_dataset(folder, config=ARTICLE, seed=0, count=16, split="train"):
    """Write scenes as PNG files: images/00000.png and masks/circle/00000.png, one folder per class.

    `config`, `seed` and `split` are those of `draw_scene`, `count` is the number of scenes. The folder appears when all of it is
    written. Returns its path; raises FileExistsError if it is there already.
    """
    folder = resolve_path(folder, "folder", Path.cwd())
    expect(is_int(count, 1, 10**5), "count", "an integer from 1 to 100000", count)
    check_key(config, seed, split)
    there = FileExistsError(f"folder: {folder} is there already; give a new name or delete it")
    if folder.exists():
        raise there
    try:
        with atomic_write(folder) as partial:
            for part in ("images", *(f"masks/{name}" for name in config.classes)):
                (partial / part).mkdir(parents=True)
            for index in tqdm(range(count), "scenes written"):
                scene = draw_scene(config, seed, index, split)
                Image.fromarray(scene.image.squeeze()).save(partial / f"images/{index:05}.png")
                for k, name in enumerate(config.classes):
                    Image.fromarray(scene.masks[..., k].astype(np.uint8) * 255).save(partial / f"masks/{name}/{index:05}.png")
    except OSError as error:
        raise there if folder.exists() else error  # another process was quicker
    return folder


def read_dataset(folder, classes=CLASSES):
    """Read a folder of images and masks, as `write_dataset` or any other tool wrote it.

    Parameters
    ----------
    folder : path; holds images/NAME.png and, for each class, masks/CLASS/NAME.png: grey, above 127 where the class is; PNG, JPEG or
        TIFF of 8 bits per channel, all of one size; a relative one counts from the current directory
    classes : sequence of str, the class folders in the order of the mask channels, any names

    Returns
    -------
    images : (N, H, W, C) uint8, in the order of their names; C is 1 or 3
    masks : (N, H, W, K) bool

    Raises FileNotFoundError if there are no images or an image lacks a mask, and ValueError if a file cannot be read or is of
    another size or kind.
    """
    classes, folder = check_names(classes), resolve_path(folder, "folder", Path.cwd())
    expect(all(Path(name).name == name for name in classes) and len({*classes}) == len(classes), "classes",
           "different names of folders in masks/", classes)
    paths, *of_class = [_files(part) for part in (folder / "images", *(folder / "masks" / name for name in classes))]
    if not paths:
        raise FileNotFoundError(f"folder: found no images in {folder / 'images'}; expected NAME.png files there")
    for name, files in zip(classes, of_class):
        if missing := sorted(paths.keys() - files.keys()):
            raise FileNotFoundError(f"{folder / 'masks' / name / missing[0]}.png is not there; each image needs one mask per class")
    images = [read_image(path) for path in paths.values()]
    masks = [[read_image(files[stem]) for files in of_class] for stem in paths]
    for stem, image, of_image in zip(paths, images, masks):
        expect(image.shape == images[0].shape, paths[stem], f"{images[0].shape} as the first image", image, "make them alike")
        for files, mask in zip(of_class, of_image):
            expect(mask.shape[:2] == image.shape[:2], files[stem], f"the size of the image, {image.shape[:2]}", mask)
            expect((mask == mask[..., :1]).all(), files[stem], "a grey mask", "colours", "give each class a file of its own")
            expect(not 0 < mask.max() <= 127, files[stem], "0 and 255", f"{mask.min()} to {mask.max()}", "multiply 0 and 1 by 255")
    return np.stack(images), np.stack([np.stack([mask[..., 0] for mask in of_image], -1) for of_image in masks]) > 127


def read_image(path):
    """Read a PNG, JPEG or TIFF file as (H, W, C) uint8, upright; C is 1 (grey) or 3 (red, green, blue, also from a palette)."""
    try:
        # An error is also what a file is warned of that claims to be huge, or that lies in another way.
        with warnings.catch_warnings(action="error"), Image.open(path, formats=("PNG", "JPEG", "TIFF")) as file:
            frames, mode, image = getattr(file, "n_frames", 1), file.mode, ImageOps.exif_transpose(file)
            if image.has_transparency_data or mode in ("1", "P"):
                image = image.convert({"1": "L", "LA": "LA"}.get(mode, "RGBA" if image.has_transparency_data else "RGB"))
            array = np.atleast_3d(np.asarray(image))
    except Exception as error:
        raise ValueError(f"{path}: expected a PNG, JPEG or TIFF file, and it cannot be read ({type(error).__name__}: {error}); "
                         "write it again") from error
    expect(frames == 1, path, "one image", f"{frames} in one file", "write each to a file of its own")
    if image.mode in ("LA", "RGBA"):
        expect(array[..., -1].min() == 255, path, "an opaque image", "a partly transparent one", "put it on a ground of one colour")
        array = array[..., :-1]
    expect(array.dtype == np.uint8 and array.shape[-1] in (1, 3) and image.mode not in ("YCbCr", "LAB", "HSV"), path,
           "8 bits per channel, grey or RGB", f"Pillow's mode {mode}", "convert it")
    return array


def _files(folder):
    """From an image's name without its suffix to its path."""
    files = {}
    for path in sorted(folder.glob("[!.]*")):
        expect(path.suffix.lower() in SUFFIXES, folder, f"images alone ({', '.join(SUFFIXES)})", path.name, "convert or remove it")
        expect(path.stem not in files, folder, "one image of each name", f"{path.stem} twice", "remove one")
        files[path.stem] = path
    return files
