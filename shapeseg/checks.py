"""What an argument may be: the checks that all rooms share, and one form of words for what is wrong."""

from itertools import islice
from math import inf, isfinite
from numbers import Integral, Real

import numpy as np

MOST = 10**100  # no count is greater, and Python prints it
MANY = 10**6  # values that are gone through at once: some have no end
SIDE = 2**16  # pixels: images are not longer, outlines do not go farther
AREA = 2**30  # pixels: nor are their boxes larger; about as much as memory holds
NO_NUMBERS = (bool, np.timedelta64)  # to Python and to NumPy they are


def expect(good, name, expected, got, advice=""):
    """Raise a ValueError that names the argument, what was expected and what was given, unless it is good."""
    if not good:
        raise ValueError(f"{name}: expected {expected}, got {told(got)}" + (advice and f"; {advice}"))


def told(value):
    """A value in few words: an array's shape and type, of anything else the beginning."""
    if isinstance(value, np.ndarray):
        return f"{value.shape} {value.dtype}"
    try:
        text = repr(value)
    except Exception:  # Python prints no whole number of more than 4300 digits
        text = f"a {type(value).__name__} that cannot be printed"
    return text if len(text) <= 300 else f"{text[:300]}…"


def whole(value, least=0, most=MOST):
    """Is it a whole number from `least` to `most`? (Python's or NumPy's, no truth value.)"""
    return isinstance(value, Integral) and not isinstance(value, NO_NUMBERS) and least <= value <= most


def real(value, least=-inf, most=inf):
    """Is it a finite number from `least` to `most`? (Python's or NumPy's, no truth value.)"""
    try:
        return isinstance(value, Real) and not isinstance(value, NO_NUMBERS) and isfinite(value) and least <= float(value) <= most
    except OverflowError:  # a whole number or a fraction that no float can hold
        return False


def one_of(value, texts):
    """Is it one of these texts? Of an array, ``in`` alone would not say."""
    return isinstance(value, str) and value in texts


def several(values):
    """Can they be gone through? (A text cannot: its letters are no values.)"""
    try:
        iter(values)
    except TypeError:
        return False
    return not isinstance(values, (str, bytes))


def listed(values, most=MANY):
    """Several values as a list; None if they are not several, or more than `most`."""
    values = list(islice(values, most + 1)) if several(values) else None
    return None if values is None or len(values) > most else values


def check_names(names, count=None, other=None):
    """Return the names of classes as a list, as many as `count` and none of them `other`, or raise a ValueError."""
    texts = listed(names)
    good = texts is not None and all(isinstance(text, str) and text and text != other for text in texts)
    expect(good and (texts if count is None else len(texts) == count), "classes",
           ("at least one name" if count is None else f"{count} names") + (f' other than "{other}"' if other else ""), names)
    return texts


def check_all(values, kinds, name, expected):
    """Return several values of one kind as a list, or raise a ValueError."""
    all_ = listed(values)
    wrong = None if all_ is None else [value for value in all_ if not isinstance(value, kinds)]
    expect(wrong == [], name, expected, wrong[0] if wrong else values)
    return all_


def check_shape(shape):
    """Return height and width as whole numbers, or raise a ValueError."""
    good = isinstance(shape, (tuple, list)) and len(shape) == 2 and all(whole(side, 1, SIDE) for side in shape)
    expect(good and int(shape[0]) * int(shape[1]) <= AREA, "shape",
           f"(height, width) in pixels, from 1 to {SIDE} and at most {AREA} in all", shape)
    return tuple(map(int, shape))


def as_array(values, name):
    """Return values as an array, or raise a ValueError if they cannot be one."""
    try:
        return np.asarray(values)
    except Exception as error:
        raise ValueError(f"{name}: expected an array, got {told(values)} ({error})") from error


def check_outline(vertices, name):
    """Return an outline's vertices as an array of float, or raise a ValueError."""
    return outline_and_box(vertices, name)[0]


def outline_and_box(vertices, name):
    """As `check_outline`, and the least and the greatest of its rows and columns."""
    array = as_array(vertices, name)
    good = array.ndim == 2 and array.shape[1] == 2 and len(array) >= 3 and array.dtype.kind in "iuf"
    if good:
        array = array.astype(float, copy=False)
        top, left, bottom, right = box = (*array.min(axis=0).tolist(), *array.max(axis=0).tolist())
        good = -SIDE <= min(top, left) and max(bottom, right) <= SIDE and (bottom - top) * (right - left) <= AREA
    expect(good, name, f"(V, 2) finite numbers, V from 3, within {SIDE} pixels and a box of {AREA}", vertices)
    return array, box


def check_parameters(**parameters):
    """Raise a ValueError unless each parameter of a notebook is as its rule says.

    Parameters
    ----------
    **parameters : (value, rule)
        The rule is a range of whole numbers, a tuple of the allowed values, a type, the set of a
        dictionary's allowed keys, or a list that holds one such rule: then the parameter is a list of
        such values.

    Raises
    ------
    ValueError
        If a value breaks its rule.

    Examples
    --------
    >>> check_parameters(scenes=(300, range(1, 1000)), skip=("add", ("none", "add")), seeds=([0, 1], [range(9)]))
    """
    for name, (value, rule) in parameters.items():
        many = isinstance(rule, list)
        follows, words = _rule(rule[0] if many else rule)
        values = [value] if not many else value if isinstance(value, (list, tuple)) else []
        expect(values and all(map(follows, values)), name, f"a list, each {words}" if many else words, value)


def _rule(rule):
    """A rule of `check_parameters` as a test and in words."""
    if isinstance(rule, range):
        return lambda value: whole(value, rule[0], rule[-1]), f"a whole number from {rule[0]} to {rule[-1]}"
    if isinstance(rule, set):
        return lambda value: isinstance(value, dict) and value.keys() <= rule, f"a dictionary, its keys among {sorted(rule)}"
    if rule is str:
        return lambda value: isinstance(value, str) and value, "a text that is not empty"
    if isinstance(rule, type):
        return lambda value: isinstance(value, rule), f"a {rule.__name__}"
    return lambda value: type(value) in map(type, rule) and value in rule, f"one of {rule}"
