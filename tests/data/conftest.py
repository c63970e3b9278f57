import shutil

import pytest

from dyngraph.data import DATASETS, GENERATORS


@pytest.fixture(scope="session")
def generated(tmp_path_factory):
    """A folder with a small set of each kind, by name."""
    folder = tmp_path_factory.mktemp("generated")
    for name, generate in GENERATORS.items():
        generate(folder / name, num_train=3, num_val=2, seed=4, progress=False)
    return folder


@pytest.fixture(params=DATASETS)
def kind(request):
    """The name of each data set."""
    return request.param


@pytest.fixture
def own(generated, kind, tmp_path):
    """The folder of a set of this kind that a test may change."""
    return shutil.copytree(generated / kind, tmp_path / kind)
