"""Random changes to an image and its masks: other light, other lenses, other places."""

import math
from functools import cache
from statistics import NormalDist

import numpy as np
from PIL import Image

from shapeseg.utils import expect, is_int, random_key


def augment(image, masks, seed=0, index=0, crop=None):
    """Change an image and its masks at random: a pure function of both, the seed and the index, so that a run can resume.

    image, masks : (H, W, C) uint8, (H, W, K) bool
    seed, index : int, from 0; each index draws other changes
    crop : int, side of a square that is cut out, more often where a mask is, and shown 0.7 to 1.4 times as large; None: all of it

    Quarter turns (half turns if it is not square), mirror images; of three images in ten also gamma, contrast, brightness, blur
    and noise, each half of the time. Returns such a pair, of size crop × crop or as turned. Raises a ValueError.
    """
    image, masks = np.asarray(image), np.asarray(masks)
    expect(image.ndim == 3 and image.dtype == np.uint8, "image", "(H, W, C) uint8", image, "image[..., None] adds a channel")
    expect(masks.ndim == 3 and masks.dtype == bool and masks.shape[:2] == image.shape[:2], "masks",
           f"{image.shape[:2] + ('K',)} bool to match the image", masks)
    expect(crop is None or is_int(crop, 16), "crop", "None or an integer from 16", crop)
    rng = random_key("augment", seed, index)
    if crop:
        image, masks = _crop(image, masks, rng, crop)
    quarters, step = rng.randint(4) if image.shape[0] == image.shape[1] else 2 * rng.randint(2), (1, -1)[rng.randint(2)]
    image, masks = (np.rot90(array, quarters)[:, ::step].copy() for array in (image, masks))
    return (_expose(image, rng) if rng.uniform() < 0.3 else image), masks


def _crop(image, masks, rng, crop):
    size = np.array(image.shape[:2])
    side = min(round(crop / math.exp(rng.uniform(math.log(0.7), math.log(1.4)))), *size)
    seen = np.flatnonzero(masks[..., rng.randint(masks.shape[-1])]) if rng.uniform() < 0.75 else ()
    inside = np.divmod(seen[rng.randint(len(seen))], size[1]) if len(seen) else rng.randint(size)  # is to lie in the square
    low, high = np.maximum(np.array(inside) - side + 1, 0), np.minimum(inside, size - side)
    top, left = (rng.randint(a, b + 1) for a, b in zip(low, high))
    parts = [Image.fromarray(channel).resize((crop, crop), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
             for channel in np.moveaxis(image, -1, 0)]
    rows, columns = ((start + (np.arange(crop) + 0.5) * side / crop).astype(int) for start in (top, left))
    return np.stack([np.asarray(part) for part in parts], axis=-1), masks[rows[:, None], columns]


def _expose(image, rng):
    gamma, contrast, brightness, passes, sigma = (value if rng.uniform() < 0.5 else none for value, none in (
        (math.exp(rng.uniform(-0.5, 0.5)), 1), (rng.uniform(0.5, 1.3), 1), (rng.uniform(-40, 40), 0), (rng.randint(1, 4), 0),
        (rng.randint(1, 65) / 4, 0)))
    levels = 255 * (np.arange(256) / 255) ** gamma
    image = np.rint(np.clip(127.5 + contrast * (levels - 127.5) + brightness, 0, 255)).astype(np.uint8)[image]
    for _ in range(passes):
        blur(image)
    return np.clip(image + noise(rng, image.shape, sigma), 0, 255).astype(np.uint8) if sigma else image


@cache
def noise_levels(sigma):
    """The 256 equally likely levels of the noise: quantiles of a normal distribution, rounded."""
    return np.array([round(sigma * NormalDist().inv_cdf((k + 0.5) / 256)) for k in range(256)])


def noise(rng, shape, sigma):
    """Noise of so many grey levels' standard deviation, int8: one table look-up turns uniform bytes into it."""
    return np.frombuffer(rng.bytes(math.prod(shape)).translate(noise_levels(sigma).astype(np.uint8).tobytes()), np.int8).reshape(shape)


def blur(image):
    """A binomial filter along rows and columns, [1, 2, 1] / 4, in whole numbers, in place."""
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge").astype(np.uint16)
    rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    image[:] = (rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:] + 8) // 16


def field(rng, size, amplitude, cells, tile=False):
    """A random grid of so many cells, made smooth; (size, size) int64 in [-amplitude, amplitude]; `tile`: it goes on where it ends."""
    grid = rng.randint(-int(amplitude), int(amplitude) + 1, (cells + 1, cells + 1))
    grid = np.pad(grid[:-1, :-1], (0, 1), "wrap") if tile else grid
    cell, rest = np.divmod(np.arange(size) * cells, size)
    weights = np.zeros((size, cells + 1))  # linear interpolation, times the size
    weights[np.arange(size), cell], weights[np.arange(size), cell + 1] = size - rest, rest
    return np.floor(weights @ grid @ weights.T / size**2).astype(np.int64)  # whole numbers below 2**53: exact in any order


@cache
def _textures():
    """Textures from coarse to fine, (1024, 1024) int8, from which scenes cut windows."""
    return [field(np.random.RandomState(cells), 1024, 127, cells, tile=True).astype(np.int8) for cells in (16, 48, 96, 256)]


def cut_texture(rng, amplitude, shape):
    """A window of a random texture, (h, w) int16 in [-amplitude, amplitude]."""
    texture = _textures()[rng.randint(4)]
    for axis, length in enumerate(shape):
        texture = texture.take(np.arange(first := rng.randint(1024), first + length) % 1024, axis)
    return texture.astype(np.int16) * int(amplitude) >> 7
