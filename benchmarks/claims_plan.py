"""Which runs check the claims: data, models, losses, and the settings: small, large, or a smoke test."""

import json
import pathlib
from typing import NamedTuple

import numpy as np

from vlr_jax import config as configs
from vlr_jax import files

FEATURES = "features_grid3x3_pca256.npz"
JUDGMENTS = {"expert": "ExpertAnnotations_testA.txt", "crowdflower": "CrowdFlowerAnnotations_testA.txt"}
SENTENCES = "tfidf"  # of the pseudo grades: only trained on, never what a claim is judged by


class Start(NamedTuple):
    """How a run on the scenes begins: learning rate, and width of a hidden layer before the visual projection."""

    lr: float
    hidden: int = 0

    def __str__(self):
        return f"lr {self.lr:g}" + (", hidden layer" if self.hidden else "")


class Setting(NamedTuple):
    """One size of everything. `starts`: of the runs on the scenes, the first benign, the last one harsh."""

    name: str
    seeds: int
    scenes: dict
    scenes_steps: int
    scenes_model: dict
    starts: tuple[Start, ...]
    sizes: tuple[int, ...]  # images of Flickr8k to train on; the ablations are at ABLATED of them
    steps: tuple[int, ...]  # of each size
    model: dict
    evaluations: int  # of a run, on the way
    batch: int
    everywhere: bool  # every loss at every level


QUICK = Setting(
    "quick", 3, dict(train=3000, val=200, test=500), 1000, dict(dim=256, word_dim=64, text="mean"),
    (Start(3e-3), Start(1e-2), Start(1e-2, 128)), (500, 2000), (200, 400), dict(dim=256, word_dim=300, text="mean"), 20,
    128, False,
)  # fmt: skip
FULL = Setting(
    "full", 5, dict(train=6000, val=500, test=500), 5000, dict(dim=1024, word_dim=300, text="gru+mean"),
    (Start(3e-4), Start(3e-3), Start(3e-3, 512)), (500, 2000, 6000), (600, 2000, 4000),
    dict(dim=1024, word_dim=300, text="gru+mean"), 20, 128, True,
)  # fmt: skip
SMOKE = Setting(
    "smoke", 2, dict(train=200, val=40, test=60), 12, dict(dim=16, word_dim=8, text="mean"),
    (Start(3e-3), Start(1e-2), Start(1e-2, 8)), (100, 200), (6, 12), dict(dim=16, word_dim=8, text="mean"), 3, 16,
    False,
)  # fmt: skip
SETTINGS = {setting.name: setting for setting in (QUICK, FULL, SMOKE)}
ABLATED = 1  # the place of that size: Triplet-HN, and every base with S-NDCG, are run there


class Configuration(NamedTuple):
    """One line of every table: `key` as the report asks for it, `title` for people, a complete config of seed 0, and
    about how many seconds a run of it takes on two cores (quick setting)."""

    key: str
    title: str
    config: dict
    seconds: float


# Term → its config. Weights: a term of the pair `base + list` has half, as Listwise ITR mixes them; info_nce is made
# as large as `unified` is, which at m = 0 is temperature · info_nce. kendall_window's weight, which no source gives, is
# the largest of 1, 0.3, 0.1, 0.03 that kept rsum on the scenes' val split within 1 % of Triplet-SN alone (seed 0).
HARD, SELECTIVE, SOFT = dict(triplet_hard={}), dict(selhn={}), dict(triplet_soft={})
BASES = {
    "hard": ("Triplet-HN", dict(triplet_hard={})),
    "unified": ("Unified", dict(unified={})),
    "info_nce": ("VLC", dict(info_nce=dict(temperature=0.05, weight=0.05))),
}
BCLS = dict(triplet_soft={}, kendall_window=dict(weight=0.1))


def listwise(base: dict) -> dict:
    """A base loss mixed half and half with Smooth-NDCG."""
    halves = {name: knobs | {"weight": 0.5 * knobs.get("weight", 1.0)} for name, knobs in base.items()}
    return halves | {"smooth_ndcg": dict(weight=0.5)}


def scenes_data(setting: Setting, data: pathlib.Path) -> dict:
    """`config.data` of the scenes; their pictures are small, for only their features are read."""
    options = setting.scenes | dict(size=16, sentence_encoder=SENTENCES)
    return dict(name="scenes", root=str(data / f"claims-scenes-{setting.name}"), split="train", options=options)


def flickr_data(size: int, data: pathlib.Path, flickr8k: pathlib.Path) -> dict:
    """`config.data` of Flickr8k with `size` images to train on; their lines are written by `flickr_lines`."""
    lines = data / f"claims-flickr8k-{size}.jsonl"
    options = dict(captions=str(lines.absolute()), features=FEATURES, sentence_encoder=SENTENCES)
    root = str(data / f"claims-flickr8k-{size}")
    return dict(name="folder", root=root, split="train", source=str(flickr8k), options=options)


def flickr_lines(source: pathlib.Path, size: int, target: pathlib.Path) -> None:
    """Writes the captions of dev, testA and `size` images of train, the same for all runs: smaller sets are in larger.

    Raises:
        ValueError: train has fewer images.
    """
    lines = source.read_text(encoding="utf-8").splitlines()
    train = [i for i, line in enumerate(lines) if json.loads(line)["split"] == "train"]
    if size > len(train):
        raise ValueError(f"{source} has {len(train)} images to train on, fewer than {size}")
    kept = set(np.random.default_rng(0).permutation(train)[:size].tolist())
    others = set(range(len(lines))) - set(train)
    files.write(target, "".join(line + "\n" for i, line in enumerate(lines) if i in kept | others))


def scenes_config(setting: Setting, data: dict, losses: dict, start: Start, relevance: str = "identity") -> dict:
    """A complete config on the scenes; graded by the facts, which nothing is trained on."""
    every = max(setting.scenes_steps // setting.evaluations, 1)
    hidden = dict(visual_hidden=start.hidden) if start.hidden else {}
    return _complete(
        setting, data, losses, relevance, steps=setting.scenes_steps, lr=start.lr, every=every, logs=10,
        text=dict(name="words", length=24), model=setting.scenes_model | hidden,
        dev=dict(data=dict(split="val")),
        test=dict(data=dict(split="test"), relevance="facts"),
    )  # fmt: skip


def flickr_config(setting: Setting, data: dict, place: int, losses: dict, relevance: str = "identity") -> dict:
    """A complete config on Flickr8k; `place` says which of the setting's sizes `data` has."""
    judged = {kind: str(pathlib.Path(data["source"]) / name) for kind, name in JUDGMENTS.items()}
    return _complete(
        setting, data, losses, relevance, steps=setting.steps[place], lr=2e-3,
        every=max(setting.steps[place] // (setting.evaluations // 2), 1), logs=10,
        text=dict(name="words", length=18, min_count=2),
        model=setting.model | dict(visual_dropout=0.2, text_dropout=0.2),
        dev=dict(data=dict(split="dev"), protocol="flickr8k-1k"),
        test=dict(data=dict(split="testA"), protocol="flickr8k-testA", relevance="caption"),
        human=dict(name="judgments", data=dict(split="testA"), **judged),
    )  # fmt: skip


def _complete(setting, data, losses, relevance, *, steps, lr, every, logs, text, model, dev, test, **more) -> dict:
    shown = dict(name="retrieval", examples=0)
    return configs.complete(
        dict(
            batch_size=setting.batch,
            steps=steps,
            data=data,
            text=text,
            model=dict(name="two_tower", pool="max", **model),
            losses=losses,
            relevance=dict(name=relevance),
            optim=dict(name="adam", lr=lr, clip=2.0),
            evals=dict(dev=shown | dict(every=every, relevance="identity") | dev, test=shown | test, **more),
            best="dev/rsum",
            log_every=logs,
        )
    )


def plan(setting: Setting, data: pathlib.Path, flickr8k: pathlib.Path | None) -> list[Configuration]:
    """All configurations, without their seeds. Without Flickr8k, those on the scenes."""
    scenes = scenes_data(setting, data)
    found = []

    def on_scenes(key, title, losses, start, relevance="identity"):
        config = scenes_config(setting, scenes, losses, start, relevance)
        kind = "scenes" if relevance == "identity" else "graded scenes"
        found.append(Configuration(key, f"{title}, scenes, {start}", config, SECONDS[kind]))

    for place, start in enumerate(setting.starts):
        on_scenes(f"scenes/hard/{place}", "Triplet-HN", HARD, start)
        # Where it gets off the plateau at the harshest start, it does at those in between.
        if setting.everywhere or place in (0, len(setting.starts) - 1):
            on_scenes(f"scenes/selhn/{place}", "SelHN", SELECTIVE, start)
    on_scenes("scenes/soft/0", "Triplet-SN", SOFT, setting.starts[0])
    on_scenes("scenes/bcls/0", "BCLS (Triplet-SN + SW-HS)", BCLS, setting.starts[0], "caption_cosine")
    if flickr8k is None:
        return found

    def on_flickr(key, title, losses, place, relevance="identity"):
        size = setting.sizes[place]
        config = flickr_config(setting, flickr_data(size, data, flickr8k), place, losses, relevance)
        seconds = SECONDS["listwise" if relevance != "identity" else "flickr"]
        found.append(
            Configuration(f"flickr/{key}/{place}", f"{title}, Flickr8k grid, {size:,} images", config, seconds)
        )

    for place in range(len(setting.sizes)):
        for base, (title, losses) in BASES.items():
            if place == ABLATED or base != "hard" or setting.everywhere:
                on_flickr(base, title, losses, place)
            if place == ABLATED:
                on_flickr(f"{base}+list", f"{title} + S-NDCG", listwise(losses), place, "caption")
    return found


SECONDS = {"scenes": 35.0, "graded scenes": 55.0, "flickr": 25.0, "listwise": 40.0}  # on two cores, quick setting


def seeded(config: dict, seed: int) -> dict:
    """The config of one run."""
    return config | {"seed": seed}
