import inspect
import re

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

import shapeseg as ss
from conftest import CONFIG

TITLE = "What to see"
RUNS = pd.DataFrame({"add": [0.1, 0.2, 0.3], "concat": [0.2, 0.2, 0.4]}, index=["a", "a", "b"])
CURVES = pd.DataFrame({"step": [1, 2, 3], "loss": [0.3, 0.2, 0.1], "iou": [0.1, 0.2, 0.3]})
IMAGES, MASKS = ss.draw_scenes(CONFIG, 0, range(2))
OWN = ["cell", "nucleus", "rust", "leaf", "dog"]  # a reader's classes


def draw(function, *args, **kwargs):
    """The one picture that a function shows; matplotlib's settings are as before."""
    plt.close("all")
    before = dict(matplotlib.rcParams)
    function(*args, **kwargs)
    assert len(plt.get_fignums()) == 1 and dict(matplotlib.rcParams) == before
    plt.gcf().canvas.draw()
    return plt.gcf()


def words(fig):
    return {text.get_text() for text in fig.findobj(plt.Text)}


@pytest.mark.parametrize("name, args, shown", [
    ("show_curves", (CURVES, "step", ["loss", "iou"], "nats"), {"step", "nats", "loss", "iou"}),
    ("show_intervals", ({"2 blocks": RUNS, "4 blocks": RUNS}, "IoU"), {"2 blocks", "4 blocks", "add", "concat", "a", "b", "IoU"}),
    ("show_images", (IMAGES, ["one", "two"]), {"one", "two"}),
    ("show_objects", (IMAGES, [[], []], ["one", "two"]), {"one", "two", *ss.CLASSES}),
])
def test_axes_and_lines_are_named(name, args, shown):
    fig = draw(getattr(ss, name), *args, title=TITLE)
    assert fig.get_suptitle() == TITLE and shown <= words(fig)


@pytest.mark.parametrize("classes", [None, OWN])
def test_a_scene_is_shown_with_each_of_its_masks_and_wrong_pixels_are_counted(classes):
    fig = draw(ss.show_scene, IMAGES[0], MASKS[0], classes)
    assert {"image", *(classes or ss.CLASSES), "composed"} <= words(fig)
    shown = [ax.images[0].get_array() for ax in fig.axes]
    assert (shown[0] == IMAGES[0].squeeze()).all()
    for k, picture in enumerate(shown[1:6]):
        assert ((np.asarray(picture) > 0).any(axis=-1) == MASKS[0, ..., k]).all()
    p = MASKS.astype(np.float32)
    p[0, :8, :8] = 1 - p[0, :8, :8]
    fig = draw(ss.show_predictions, IMAGES, MASKS, p, classes)
    assert {f"wrong: {64 / 64**2:.2%} of the pixels", "wrong: 0.00% of the pixels", *(classes or ss.CLASSES)} <= words(fig)


def test_images_may_have_a_legend_and_figures_are_outlined_in_the_colour_of_their_class():
    assert {*OWN, TITLE} <= words(draw(ss.show_images, IMAGES, title=TITLE, legend=OWN))
    scene = ss.draw_scene(CONFIG)
    own = ss.Object("cell", 0.5, scene.figures[0].centre, scene.figures[0].vertices)
    fig = draw(ss.show_objects, [scene.image] * 2, [scene.figures, [own]], ["truth", "found"], TITLE)
    outlines = [[line.get_color() for line in ax.lines if len(line.get_xdata()) > 1] for ax in fig.axes]
    assert outlines[0] == [ss.PALETTE[figure.label] for figure in scene.figures] and {"truth", "found", "cell"} <= words(fig)
    assert outlines[1] and outlines[1][0] not in outlines[0]


def test_without_names_the_classes_have_numbers_and_any_label_is_drawn():
    assert {"class 1"} <= words(draw(ss.show_scene, IMAGES[0], MASKS[0, ..., :1]))
    two, cell = MASKS[..., :2] * 1.0, ss.Object("cell", 1.0, (9, 9), np.eye(3, 2))
    assert {"class 1", "class 2"} <= words(draw(ss.show_predictions, IMAGES, MASKS[..., :2], two))
    assert [*ss.Counts().add(two, MASKS[..., :2]).table().index] == ["class 1", "class 2", "mean"]
    assert {"leaf", "cell"} <= words(draw(ss.show_objects, IMAGES[:1], [[cell]], classes=["leaf"]))
    colours = ss.class_colours([*OWN, *ss.CLASSES, "moss"])  # each has its own
    assert len({*colours}) == 11 and colours[5:10] == [*ss.PALETTE.values()]


def test_classes_that_overlap_are_striped_and_those_that_are_only_likely_mix():
    masks = np.zeros((80, 80, 5), bool)
    masks[:40, :, 0] = masks[:, :40, 1] = True
    picture = ss.compose(masks)
    blue, red = (np.array(to_rgb(ss.PALETTE[name])) for name in ss.CLASSES[:2])
    assert np.allclose(picture[:40, 40:], blue) and np.allclose(picture[40:, :40], red) and (picture[40:, 40:] == 0).all()
    shares = [np.isclose(picture[:40, :40], colour).all(axis=-1).mean() for colour in (blue, red)]
    assert sum(shares) == 1 and min(shares) > 0.4  # in an overlap each pixel has the colour of one of its classes
    assert np.allclose(ss.compose(masks, np.full((80, 80, 1), 255, np.uint8))[40:, 40:], 0.5)
    assert np.allclose(ss.compose(np.array([[[0.4, 0.4, 0, 0, 0]]]))[0, 0], 0.4 * (blue + red))


@pytest.mark.parametrize("function", [ss.predict, ss.Counts, ss.fill, ss.show_images])
def test_source_is_shown_without_its_docstring(function, monkeypatch):
    shown = []
    monkeypatch.setattr("shapeseg.plots.display", lambda markdown: shown.append(markdown.data))
    ss.show(function)
    code = re.fullmatch(r"```python\n(.*)```", shown[0], re.S)[1]
    source = inspect.getsource(function)
    begin, _, end = source.split('"""', 2)
    assert code.rstrip() == (begin.rstrip(" ") + end.removeprefix("\n")).rstrip()
