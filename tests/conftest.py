import matplotlib
import pytest
from hypothesis import HealthCheck, settings

matplotlib.use("Agg")

# pytest --hypothesis-profile long tries 25 times as many examples, other ones each time.
settings.register_profile("default", max_examples=100, derandomize=True, deadline=None, database=None,
                          suppress_health_check=list(HealthCheck))
settings.register_profile("long", settings.get_profile("default"), max_examples=2500, derandomize=False, print_blob=True)
settings.load_profile("default")


def pytest_addoption(parser):
    parser.addoption("--kills", type=int, default=3, help="how often a training run is killed")


@pytest.fixture(scope="session")
def small():
    """A scene config that draws, trains and predicts in no time."""
    from shapeseg import SceneConfig

    return SceneConfig(size=64, figures=(1, 3), radius=(0.1, 0.25))
