import matplotlib
import pytest

matplotlib.use("Agg")


def pytest_addoption(parser):
    parser.addoption("--kills", type=int, default=3, help="how often a training run is killed")


@pytest.fixture(scope="session")
def small():
    """A scene config that draws, trains and predicts in no time."""
    from shapeseg import SceneConfig

    return SceneConfig(size=64, figures=(1, 3), radius=(0.1, 0.25))
