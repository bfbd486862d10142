import matplotlib
import pytest

matplotlib.use("Agg")


@pytest.fixture(scope="session")
def small():
    """A scene config that draws, trains and predicts in no time."""
    from shapeseg import SceneConfig

    return SceneConfig(size=64, figures=(1, 3), radius=(0.1, 0.25))
