"""Eight fake CPU devices, cheap compilation, executable shapes, and tiny seeded batches."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
# Compile time is the budget of this suite: unoptimised code is enough for tiny arrays.
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count=8"

import pathlib
import sys

import pytest
from absl import flags
from jaxtyping import install_import_hook

PURE = (
    "ranking",
    "sorting",
    "soft_ranks",
    "discordance",
    "relevance",
    "metrics",
    "losses",
    "spans",
    "suppression",
    "highlights",
)
PURE += ("moment_metrics", "answers", "predictions", "calibration")
install_import_hook([f"vlr_jax.{name}" for name in PURE], "beartype.beartype")
if not flags.FLAGS.is_parsed():
    flags.FLAGS(sys.argv[:1])  # grain reads absl flags

REPO = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """Real data, outside the project; tests that need them skip where they are absent."""
    folder = pathlib.Path(os.environ.get("VLR_JAX_DATA", REPO.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set VLR_JAX_DATA)")
    return folder


@pytest.fixture(scope="session")
def scenes_root(tmp_path_factory) -> str:
    """A small prepared `scenes` dataset."""
    from vlr_jax import prepare

    root = tmp_path_factory.mktemp("scenes") / "root"
    prepare.prepare("scenes", root, options=dict(train=48, val=16, test=16), progress=False)
    return str(root)


@pytest.fixture
def small_config(scenes_root) -> dict:
    """A complete config that trains in seconds on `scenes_root`."""
    from vlr_jax import config

    return config.complete(
        dict(
            data=dict(name="scenes", root=scenes_root, split="train"),
            text=dict(name="words", length=12),
            model=dict(name="two_tower", dim=16, word_dim=8, text="mean"),
            losses=dict(info_nce=dict(temperature=0.1)),
            optim=dict(name="adam", lr=1e-3, clip=2.0),
            batch_size=16,
            steps=6,
            log_every=2,
            evals=dict(val=dict(name="retrieval", every=3, data=dict(split="val"))),
            best="val/rsum",
        )
    )
