import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

import shapeseg as ss
from shapeseg import plots

TITLE = "What to see"
RUNS = pd.DataFrame({"add": [0.1, 0.2, 0.3], "concat": [0.2, 0.2, 0.4]}, index=["a", "a", "b"])
CURVES = pd.DataFrame({"step": [1, 2, 3], "loss": [0.3, 0.2, 0.1], "iou": [0.1, 0.2, 0.3]})


@pytest.fixture
def scenes(small):
    return ss.draw_scenes(small, 0, range(2))


def draw(function, *args, **kwargs):
    plt.close("all")
    function(*args, **kwargs)
    assert len(plt.get_fignums()) == 1
    plt.gcf().canvas.draw()
    return plt.gcf()


def words(fig):
    return {text.get_text() for text in fig.findobj(plt.Text)}


@pytest.mark.parametrize("name, args, shown", [
    ("show_curves", (CURVES, "step", ["loss", "iou"], "nats"), {"step", "nats", "loss", "iou"}),
    ("show_bars", ({"circle": 0.5, "mean": 0.25}, "IoU"), {"IoU", "circle", "mean", "0.5", "0.25"}),
    ("show_matrix", (pd.DataFrame([[1, 0.25], [np.nan, 0]], ["r", "s"], ["c", "d"]),), {"100%", "25%", "0%", "r", "s", "c", "d"}),
    ("show_class_curves", (CURVES[["loss"]], CURVES[["iou"]].set_axis(["loss"], axis=1), "recall", "precision"),
     {"recall", "precision", "loss"}),
    ("show_shares", (pd.Series([True, False, True]), pd.Categorical(["few", "few", "many"], ["few", "none", "many"]), "overlap", "share"),
     {"few\n(2)", "none\n(0)", "many\n(1)", "overlap (in brackets: how many)", "share"}),
    ("show_intervals", ({"2 blocks": RUNS, "4 blocks": RUNS}, "IoU"), {"2 blocks", "4 blocks", "add", "concat", "a", "b", "IoU"}),
    ("show_depths", ({"plain": [[1, 2, 3]], "residual": [[1, 1, 2]]}, ["gradient"]), {"gradient", "plain", "residual", "after this many blocks"}),
    ("show_spread", ({"before": np.ones((2, 3, 3, 4)), "after": np.zeros((2, 3, 3, 4))},), {"before", "after", "channel"}),
])
def test_axes_and_lines_are_named(name, args, shown):
    options = {"baseline": 0.5} if name in ("show_bars", "show_intervals") else {"diagonal": True} if name == "show_class_curves" else {}
    fig = draw(getattr(ss, name), *args, title=TITLE, **options)
    assert fig.get_suptitle() == TITLE and shown <= words(fig)


def test_curves_are_those_of_the_table():
    fig = draw(ss.show_curves, CURVES, "step", ["loss", "iou"], "nats", TITLE, logy=True)
    assert [line.get_ydata().tolist() for line in fig.axes[0].lines] == [CURVES.loss.tolist(), CURVES.iou.tolist()]
    assert fig.axes[0].get_yscale() == "log"


def test_a_scene_is_shown_with_each_of_its_masks(scenes):
    images, masks = scenes
    fig = draw(ss.show_scene, images[0], masks[0])
    assert {"image", *ss.CLASSES, "composed"} <= words(fig)
    shown = [ax.images[0].get_array() for ax in fig.axes]
    assert (shown[0] == images[0].squeeze()).all()
    for picture, k in zip(shown[1:], range(5)):
        assert ((np.asarray(picture) > 0).any(axis=-1) == masks[0, ..., k]).all()


def test_images_may_have_a_legend_of_their_classes(scenes):
    assert {*ss.CLASSES, TITLE} <= words(draw(ss.show_images, scenes[0], title=TITLE, legend=ss.CLASSES))
    assert not {*ss.CLASSES} & words(draw(ss.show_images, scenes[0], title=TITLE))


def test_wrong_pixels_are_counted(scenes):
    images, masks = scenes
    p = masks.astype(np.float32)
    p[0, :8, :8] = 1 - p[0, :8, :8]
    fig = draw(ss.show_predictions, images, masks, p)
    assert {f"wrong: {64 / 64**2:.2%} of the pixels", "wrong: 0.00% of the pixels", *ss.CLASSES} <= words(fig)


def test_objects_and_figures_are_outlined_in_the_colour_of_their_class(small):
    scene = ss.draw_scene(small)
    fig = draw(ss.show_objects, [scene.image] * 2, [scene.figures, []], ["truth", "nothing"], TITLE)
    outlines = [line for line in fig.axes[0].lines if len(line.get_xdata()) > 1]
    assert [line.get_color() for line in outlines] == [ss.PALETTE[figure.label] for figure in scene.figures]
    assert not fig.axes[1].lines and {"truth", "nothing", TITLE} <= words(fig)


def test_colours_of_overlapping_classes_mix():
    masks = np.zeros((1, 3, 5), bool)
    masks[0, 0, 0] = masks[0, 1, :2] = True
    picture = ss.compose(masks)
    blue, red = (np.array(to_rgb(ss.PALETTE[name])) for name in ss.CLASSES[:2])
    assert np.allclose(picture[0, 0], blue) and np.allclose(picture[0, 1], (blue + red) / 2) and (picture[0, 2] == 0).all()
    assert np.allclose(ss.compose(masks, np.full((1, 3, 1), 255, np.uint8))[0, 2], 0.5)


def test_the_network_and_what_it_sees(scenes):
    model = ss.build_model(**ss.FAST_MODEL)
    shapes = {layer.name: (64, 64, layer.output.shape[-1] or 1) for layer in model.layers}
    fig = draw(ss.show_network, model, shapes)
    assert any("encoder1" in text for text in words(fig)) and "decoder block" in words(fig)
    gradient = np.random.default_rng(0).random((64, 64))
    fig = draw(ss.show_receptive_fields, scenes[0][:1], [gradient], [(-3, 70)], [10], ["32 pixels"], TITLE)
    assert {"32 pixels", "column in pixels", "row in pixels", TITLE} <= words(fig)
    fig = draw(ss.show_fill, np.array([[2.0, 2], [2, 8], [7, 5]]))
    assert {"column (pixels)", "row (pixels)", "outline"} <= words(fig)


def test_source_is_shown(capsys):
    ss.show(plots.class_legend)
    assert "Markdown" in capsys.readouterr().out
