"""Many scenes: as arrays, as a stream of batches, as a folder of PNG files."""

import os
import shutil
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from skimage.io import imsave
from tqdm import tqdm

from shapeseg.checks import as_array, check_names, expect, listed, told, whole
from shapeseg.figures import CLASSES
from shapeseg.files import checksum, find_path, room_for
from shapeseg.images import ENDINGS, read_image
from shapeseg.scenes import ARTICLE, ROOM, SceneConfig, check_key, draw_scene, room

REPEAT = 10**6  # scenes that may be gone through again and again: each one's place is that of a permutation of all
FILES = 10**5  # whose names, of five digits, have an order

CHECKSUMS = "checksums.txt"  # in a dataset's folder; sha256sum reads it, too


def draw_scenes(config=ARTICLE, seed=0, indices=range(16), split="train"):
    """Draw several scenes into two arrays.

    Parameters
    ----------
    config, seed, split
        As for `draw_scene`.
    indices : iterable of int
        As many as the memory holds: at most 8 GB of images and masks.

    Returns
    -------
    images : (N, H, W, C) array of uint8
    masks : (N, H, W, K) array of bool

    Raises
    ------
    ValueError
        If an argument is not as above.
    """
    check_key(config, seed, split)
    most = room(config)
    given, indices = indices, listed(indices, most)
    expect(indices is not None and all(map(whole, indices)), "indices",
           f"several whole numbers, for example range(16), at most {most} for scenes of this size", given)
    size = (len(indices), config.size, config.size)
    images = np.empty(size + (config.channels,), np.uint8)
    masks = np.empty(size + (len(config.classes),), bool)
    for n, index in enumerate(indices):
        scene = draw_scene(config, seed, index, split)
        images[n], masks[n] = scene.image, scene.masks
    return images, masks


def stream(data=ARTICLE, seed=0, batch_size=16, start=0, count=None, split="train", repeat=None, encode=None):
    """Batches of scenes, drawn by another thread while the caller works on the batch before.

    Parameters
    ----------
    data : SceneConfig or (images, masks)
        A config draws scene ``start``, ``start + 1``, … of `seed` and `split`. Arrays of shape
        (N, H, W, C) uint8 and (N, H, W, K) bool are gone through again and again, each time in
        another order, which depends on `seed` alone.
    batch_size : int
        Scenes a batch; the last batch of a finite stream may be smaller. At most 8 GB.
    start : int
        The first scene: the stream from `start` is the tail of the stream from 0.
    count : int, optional
        Number of scenes in all; without it the stream does not end.
    repeat : int, optional
        Go through the first `repeat` scenes of the config again and again, as through arrays.
    encode : function, optional
        Of a `Scene`; makes a third array of each scene of a config, in the other thread.

    Returns
    -------
    Stream
        Iterate over it for (images, masks), or (images, masks, encoded); each iteration begins anew.

    Raises
    ------
    ValueError
        If an argument is not as above.
    """
    return Stream(data, seed, batch_size, start, count, split, repeat, encode)


class Stream:
    """What `stream` returns. ``count`` is None where it does not end."""

    def __init__(self, data, seed, batch_size, start, count, split, repeat, encode):
        check_order(seed, batch_size, repeat)
        expect(whole(start), "start", "a whole number from 0", start)
        expect(count is None or whole(count), "count", "None or a whole number from 0", count)
        drawn = isinstance(data, SceneConfig)
        expect(encode is None or drawn and callable(encode), "encode", "None with arrays, which hold no scenes, or a function",
               encode, "" if drawn else "give a SceneConfig")
        if drawn:
            check_key(data, seed, split)
            most = room(data)
            self.draw = lambda index: draw_scene(data, seed, index, split)
        else:
            images, masks = check_pair(data)
            most = ROOM // (images[0].nbytes + masks[0].nbytes)
            self.draw = lambda index: (images[index], masks[index])
            repeat = len(images)
        expect(batch_size <= most, "batch_size", f"at most {most} scenes of this size", batch_size)
        self.seed, self.batch_size, self.encode = int(seed), int(batch_size), encode
        self.start, self.count, self.repeat = int(start), count and int(count), repeat and int(repeat)

    def __iter__(self):
        end = None if self.count is None else self.start + self.count
        starts, batches = self.start, deque()
        # A thread is enough: NumPy and TensorFlow let others run while they compute. A second one would
        # take more time away from a training step than it saves.
        with ThreadPoolExecutor(1) as pool:
            while True:
                while len(batches) < 2 and (end is None or starts < end):
                    stop = starts + self.batch_size if end is None else min(starts + self.batch_size, end)
                    batches.append([pool.submit(self._scene, n) for n in range(starts, stop)])
                    starts = stop
                if not batches:
                    return
                scenes = [future.result() for future in batches.popleft()]
                yield tuple(map(np.stack, zip(*scenes)))

    def _scene(self, n):
        if self.repeat:
            round_, place = divmod(n, self.repeat)
            n = np.random.RandomState([self.seed, round_ % 2**32]).permutation(self.repeat)[place]
        scene = self.draw(int(n))
        if isinstance(scene, tuple):
            return scene
        return (scene.image, scene.masks) + ((self.encode(scene),) if self.encode else ())


def check_order(seed, batch_size, repeat):
    """Raise a ValueError unless these can order the scenes of a stream."""
    expect(whole(seed, 0, 2**32 - 1), "seed", f"a whole number from 0 to {2**32 - 1}", seed)
    expect(whole(batch_size, 1), "batch_size", "a whole number from 1", batch_size)
    expect(repeat is None or whole(repeat, 1, REPEAT), "repeat", f"None or a whole number from 1 to {REPEAT}", repeat)


def check_pair(data, name="data", expected="a SceneConfig or two arrays (images, masks)"):
    """Return images and masks from a pair of arrays, or raise a ValueError that says what is wrong."""
    expect(isinstance(data, (tuple, list)) and len(data) == 2, name, expected, data)
    return check_arrays(*data)


def check_arrays(images, masks):
    """Return images and masks, or raise a ValueError that says what is wrong with them."""
    images, masks = check_images(images), as_array(masks, "masks")
    expect(masks.ndim == 4 and masks.dtype == bool and masks.shape[:3] == images.shape[:3] and masks.size, "masks",
           f"{images.shape[:3] + ('K',)} bool to match the images", masks, "threshold probabilities first, for example p > 0.5")
    return images, masks


def check_images(images, channels=None):
    """Return images as an array, or raise a ValueError unless they are (N, H, W, C) uint8."""
    images = as_array(images, "images")
    expect(images.ndim == 4 and images.dtype == np.uint8 and images.size and channels in (None, images.shape[-1]), "images",
           f"(N, H, W, {channels or 'C'}) uint8 and none of them 0", images,
           "one grey image becomes such an array by image[None, ..., None]")
    return images


def write_dataset(folder, config=ARTICLE, seed=0, count=16, split="train"):
    """Write scenes as PNG files: images/00000.png and masks/circle/00000.png, one folder a class.

    The folder appears when all of it is written, so it is whole or absent. The checksum of each file is
    in checksums.txt, which `read_dataset` goes by.

    Parameters
    ----------
    folder : path
        Must not exist yet.
    config, seed, split
        As for `draw_scene`.
    count : int
        Number of scenes, from 1 to 100000.

    Returns
    -------
    pathlib.Path
        The folder.

    Raises
    ------
    FileExistsError
        If the folder is there already.
    ValueError
        If another argument is not as above.
    """
    folder = find_path(folder, "folder", Path())
    there = f"folder: {folder} is there already; give a new name or delete it"
    if folder.exists():
        raise FileExistsError(there)
    expect(whole(count, 1, FILES), "count", f"a whole number from 1 to {FILES}", count)
    check_key(config, seed, split)
    partial = folder.with_name(f".{folder.name[:40]}.{os.getpid()}.partial")
    try:
        with room_for(folder):
            for part in ("images", *(f"masks/{name}" for name in config.classes)):
                (partial / part).mkdir(parents=True)
            for index in tqdm(range(count), "scenes written"):
                scene = draw_scene(config, seed, index, split)
                imsave(partial / f"images/{index:05}.png", scene.image.squeeze(), check_contrast=False)
                for k, name in enumerate(config.classes):
                    mask = scene.masks[..., k].astype(np.uint8) * 255
                    imsave(partial / f"masks/{name}/{index:05}.png", mask, check_contrast=False)
            files = sorted(path for path in partial.glob("**/*.png"))
            (partial / CHECKSUMS).write_text("".join(
                f"{checksum(path)}  {path.relative_to(partial).as_posix()}\n" for path in files))
            try:
                partial.rename(folder)
            except OSError as error:
                raise FileExistsError(there) from error  # another process was quicker
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def read_dataset(folder, classes=CLASSES):
    """Read a folder of images and masks, as `write_dataset` or any other tool wrote it.

    Parameters
    ----------
    folder : path
        Holds images/NAME.png and, for each class, masks/CLASS/NAME.png: grey, above 127 where the
        class is. All images have one size. PNG, JPEG and TIFF, of 8 bits a channel: see `read_image`.
    classes : sequence of str
        The class folders, in the order of the mask channels; any names.

    Returns
    -------
    images : (N, H, W, C) array of uint8
        In the order of their names; C is 1 or 3.
    masks : (N, H, W, K) array of bool

    Raises
    ------
    FileNotFoundError
        If there are no images, or an image lacks a mask.
    ValueError
        If `classes` is empty, a file is unreadable or of another size or type, a mask holds
        grey levels but none above 127, or a file is not as `write_dataset` wrote it.
    """
    classes, folder = check_names(classes), find_path(folder, "folder", Path())
    expect(folder.is_dir() or not folder.exists(), "folder", "a directory", folder)
    plain = all(Path(name).name == name != ".." for name in classes) and len(set(classes)) == len(classes)
    expect(plain, "classes", "different names of folders in masks/", classes)
    for name in classes:
        find_path(folder / "masks" / name, "classes")
    paths, of_class = _files(folder / "images"), {name: _files(folder / "masks" / name) for name in classes}
    if not paths:
        raise FileNotFoundError(f"folder: found no images in {folder / 'images'}; expected NAME.png files there")
    for name, files in of_class.items():
        if missing := sorted(paths.keys() - files.keys()):
            raise FileNotFoundError(f"{folder / 'masks' / name / missing[0]}.png: there is no such file; each image needs one "
                                    "mask a class")
    if (folder / CHECKSUMS).is_file():
        _check_sums(folder, [*paths.values(), *(files[stem] for files in of_class.values() for stem in paths)])
    images = [read_image(path) for path in paths.values()]
    masks = [[_read_mask(files[stem]) for files in of_class.values()] for stem in paths]
    for name, image, channels in zip(paths, images, masks):
        for size in {image.shape[:2]} | {mask.shape[:2] for mask in channels}:
            if size != images[0].shape[:2] or image.shape != images[0].shape:
                raise ValueError(f"{paths[name]}: expected {images[0].shape} as the first image, and masks of the "
                                 f"same size, got {image.shape} and a size of {size}; make them alike")
        for name_of_class, mask in zip(classes, channels):
            if 0 < mask.max() <= 127:
                raise ValueError(f"{of_class[name_of_class][name]}: expected 0 and 255, got {mask.min()} to {mask.max()}, "
                                 "so no pixel would belong to the class; multiply 0 and 1 by 255")
    return np.stack(images), np.stack([np.concatenate(channels, axis=-1) for channels in masks]) > 127


def _read_mask(path):
    mask = read_image(path)
    if (mask != mask[..., :1]).any():
        raise ValueError(f"{path}: expected a grey mask, got colours; give each class a file of its own")
    return mask[..., :1]


def _files(folder):
    """From an image's name without its ending to its path."""
    files = {}
    for path in sorted(folder.glob("[!.]*")):
        if path.suffix.lower() not in ENDINGS:
            raise ValueError(f"{folder}: expected images alone ({', '.join(ENDINGS)}), found {path.name}; convert or remove it")
        if path.stem in files:
            raise ValueError(f"{folder}: expected one image of each name, found {files[path.stem].name} and {path.name}; "
                             "remove one")
        files[path.stem] = path
    return files


def _check_sums(folder, files):
    """Raise an error if a file is not as `write_dataset` wrote it."""
    path, again = folder / CHECKSUMS, "write the dataset again"
    try:
        sums = dict(reversed(line.split(maxsplit=1)) for line in path.read_text().splitlines())
    except ValueError as error:
        raise ValueError(f"{path}: expected a checksum and a name a line, but it is damaged ({error}); {again}") from error
    for name, expected in sums.items():
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name}: there is no such file, and {CHECKSUMS} names it; {again}")
        if checksum(folder / name) != expected:
            raise ValueError(f"{folder / name}: it is not as write_dataset wrote it; {again} or, if you have changed it, "
                             f"delete {CHECKSUMS}")
    for file in files:
        if file.relative_to(folder).as_posix() not in sums:
            raise ValueError(f"{path}: expected a line for {file}, and there is none; {again} or, if you have added the "
                             f"file, delete {CHECKSUMS}")
