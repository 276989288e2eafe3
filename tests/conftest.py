"""Small real models that the tests share: random weights, every layer awake."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")  # two workers, two cores

import keras
import numpy as np
import pytest
import tensorflow as tf
from chromium import missing

import benchmarks.torchvision_operators  # noqa: F401  (before anything imports torchvision)
import codi_tf
from codi_tf.adapters import ADAPTERS
from codi_tf.checkpoints.base import Base, make_autoencoder, make_unet
from codi_tf.checkpoints.folder import save_base
from codi_tf.companions import COMPANIONS
from codi_tf.diffusion.samplers import SAMPLERS
from codi_tf.evaluation import METRICS
from codi_tf.evaluation.features import FeatureNetwork, save_features
from codi_tf.methods import METHODS
from codi_tf.tasks import TASKS
from export.formats import FORMATS
from export.formats.runtimes import RUNTIMES
from studies.common.memory import give_memory_back

# Tiny networks run a few times each: a graph's optimization takes longer than it saves, a quarter of the suite's time.
# Whatever runs as a process of its own (training, notebooks, the demo) has it.
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})

MAX_HELD = 3_000_000_000  # bytes of a worker that are not worth giving back

UNET = {
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "cross_attention_dim": 8,
    "norm_num_groups": 4,
}
VAE = {"block_out_channels": [8, 8, 16], "layers_per_block": 1, "norm_num_groups": 4, "mid_block_add_attention": False}
SCHEDULER = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}


def make_base(seed: int = 0) -> Base:
    """A base with random weights; the layers that start at zero are random too, so that nothing hides."""
    keras.utils.set_random_seed(seed)
    base = Base(make_unet(UNET), make_autoencoder({**VAE, "scaling_factor": 1.5}), dict(SCHEDULER))
    random = np.random.default_rng(seed)
    for variable in (*base.unet.conv_out.variables, *base.vae.decoder.conv_out.variables):
        variable.assign(random.normal(0, 0.05, variable.shape).astype("float32"))
    return base


def make_model(base: Base, **options) -> codi_tf.CoDi:
    """A CoDi model on a base whose adapter acts: mu is not 0."""
    model = codi_tf.CoDi(base, image_size=16, **options)
    adapter = model.student.adapter
    adapter.mu.assign(np.linspace(-0.3, 0.6, adapter.mu.shape[0]).astype("float32"))
    return model


@pytest.fixture(scope="session")
def feature_folder(tmp_path_factory):
    """The folder of FD-photos' network, with random weights."""
    keras.utils.set_random_seed(0)
    network = FeatureNetwork(num_photos=4, name="features")
    network.build()
    folder = tmp_path_factory.mktemp("features") / "features"
    save_features(network, folder)
    return folder


SLOW = Path(__file__).with_name("slow.txt")


def pytest_xdist_auto_num_workers(config) -> int:
    """One worker a processor, as far as the memory goes: each may hold 5 GB."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(os.cpu_count() or 1, memory // 6_000_000_000))


def pytest_collection_modifyitems(items):
    """The tests of slow.txt are slow. Files with slow tests come first: no worker is left alone with one at the end."""
    listed = {line for line in SLOW.read_text("utf-8").splitlines() if not line.startswith("#")}
    for item in items:
        if item.nodeid.removeprefix("tests/") in listed or item.path.name in listed:
            item.add_marker(pytest.mark.slow)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_terminal_summary(terminalreporter):
    if missing():
        names = ", ".join(missing())
        terminalreporter.write_line(f"skipped: tests that need {names}, which make setup installs")


def resident_bytes() -> int:
    """The memory of this process; 0 where the system does not say."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


@pytest.fixture(scope="module", autouse=True)
def memory_goes_back():
    """Giving memory back takes seconds: only where much is held, or where it is not known how much."""
    yield
    if not 0 < resident_bytes() < MAX_HELD:
        give_memory_back()


@pytest.fixture(scope="module", autouse=True)
def only_own_entries(request):
    """Hides what other test modules have registered: a worker imports them all."""
    hidden = []
    for registry in (TASKS, COMPANIONS, METHODS, ADAPTERS, SAMPLERS, METRICS, FORMATS, RUNTIMES):
        for name, entry in list(registry._entries.items()):
            module = getattr(entry, "__module__", "")
            if module.startswith("test_") and module != request.module.__name__:
                hidden.append((registry, name, registry._entries.pop(name)))
    yield
    for registry, name, entry in hidden:
        registry._entries.setdefault(name, entry)


@pytest.fixture
def memory_goes_back_after_each():
    """For tests that hold a GB of graphs each."""
    yield
    give_memory_back()


@pytest.fixture
def optimized():
    """Graphs are optimized, as in a process of its own: for what is compared bit by bit."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory):
    """A folder with a base in the diffusers layout."""
    folder = tmp_path_factory.mktemp("base") / "base"
    folder.mkdir()
    save_base(make_base(), folder)
    return folder


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    """A bundle whose output depends on condition and noise."""
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    make_model(make_base()).save(folder)
    return folder


@pytest.fixture(scope="session")
def tuned_bundle(tmp_path_factory):
    """A bundle of a model that was fine-tuned, which distillation goes on from."""
    folder = tmp_path_factory.mktemp("tuned") / "bundle"
    make_model(make_base(), method=codi_tf.Finetune(drop_condition=0.1)).save(folder)
    return folder


@pytest.fixture
def base() -> Base:
    """A fresh base."""
    return make_base()


@pytest.fixture
def eager():
    """Functions run eagerly: tracing a training step costs as much as twenty eager ones."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)
