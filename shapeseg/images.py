"""Image files as people have them, as arrays."""

import warnings

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("PNG", "JPEG", "TIFF")
ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


def read_image(path):
    """Read an image of 8 bits a channel.

    Parameters
    ----------
    path : pathlib.Path
        A PNG, JPEG or TIFF file; what counts is what it holds, not its name.

    Returns
    -------
    (H, W, C) array of uint8
        Upright, if a camera has noted how it was held. C is 1 (grey) or 3 (red, green, blue): a palette
        is replaced by its colours, black and white by 0 and 255, and an alpha channel that is opaque
        everywhere is dropped.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is unreadable, or something else: 16 bits, floating point, CMYK, partly transparent,
        several images in one file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of a file that claims to be huge, or that lies in another way
            with Image.open(path, formats=FORMATS) as file:
                frames, mode = getattr(file, "n_frames", 1), file.mode
                image = ImageOps.exif_transpose(file)
                image.load()
                if mode == "1":
                    image = image.convert("L")
                elif image.has_transparency_data:
                    image = image.convert("RGBA" if mode != "LA" else "LA")
                elif mode == "P":
                    image = image.convert("RGB")
    except Exception as error:
        raise ValueError(f"{path}: expected a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file, and it cannot be read "
                         f"({type(error).__name__}: {error}); write it again") from error
    array = np.asarray(image)
    array = array[..., None] if array.ndim == 2 else array
    if frames > 1:
        raise ValueError(f"{path}: expected one image, got {frames} in one file; write each to a file of its own")
    if image.mode in ("LA", "RGBA"):
        if array[..., -1].min() < 255:
            raise ValueError(f"{path}: expected an opaque image, got one that is partly transparent; put it on a ground of one "
                             "colour")
        array = array[..., :-1]
    elif image.mode not in ("L", "RGB"):
        raise ValueError(f"{path}: expected 8 bits a channel, grey or RGB, got Pillow's mode {mode}; convert it")
    return array
