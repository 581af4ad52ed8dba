"""Which runs check the claims of the video papers: worlds of three difficulties, models, ablations, settings."""

import pathlib
from typing import NamedTuple

from claims_plan import Configuration

from vlr_jax import config as configs

LEVELS = ("easy", "middle", "hard")
MIDDLE = 1  # what everything is trained at, and the ablations are compared at


class Setting(NamedTuple):
    """One size of everything. `clutter` and `mention`: of each level of that difficulty, the other at its middle."""

    name: str
    seeds: int
    world: dict
    clutter: tuple[int, int, int]
    mention: tuple[float, float, float]
    steps: tuple[int, int]  # of the runs on graphs, of those on tokens
    dim: int
    batch: int
    evaluations: int


QUICK = Setting(
    "quick",
    3,
    dict(train=3000, val=200, test=500, captions=3, spread=3, length=6),
    (0, 4, 8),
    (0.9, 0.6, 0.3),
    (500, 300),
    128,
    64,
    6,
)
FULL = Setting(
    "full",
    5,
    dict(train=12000, val=500, test=1000, spread=3, length=12),
    (0, 4, 8),
    (0.9, 0.6, 0.3),
    (8000, 8000),
    512,
    128,
    20,
)
SMOKE = Setting(
    "smoke", 2, dict(train=64, val=16, test=16, spread=3, length=3), (0, 2, 4), (0.9, 0.6, 0.3), (6, 6), 16, 16, 2
)
SETTINGS = {setting.name: setting for setting in (QUICK, FULL, SMOKE)}

# Graph reasoning: key → (title, what differs from the model's defaults).
GRAPHS = {
    "walk": ("ViSERN, walk of 2 steps", {}),
    "attention": ("one step of attention (VSRN-style)", dict(reasoning="attention")),
    "mean": ("mean of the regions, no graph", dict(reasoning="mean")),
    "one step": ("ViSERN, walk of 1 step", dict(steps=1)),
    "three steps": ("ViSERN, walk of 3 steps", dict(steps=3)),
    "restart": ("ViSERN, restart 0.15", dict(restart=0.15)),
    "stationary": ("ViSERN, regions weighted by π", dict(aggregation="stationary")),
}
CONTRAST = dict(info_nce=dict(temperature="model"))
ADAPTIVE = dict(adaptive_contrastive=dict(margin=0.2, temperature="model"))
# Aggregation: key → (title, model, what differs from its defaults, losses, regularisers).
TOKENS = {
    "prota": ("ProTA", "prota", {}, ADAPTIVE, dict(kl=1e-3)),
    "mean": ("mean of the frames (meanP)", "clip4clip", {}, CONTRAST, {}),
    "transformer": ("temporal transformer (seqTransf)", "clip4clip", dict(temporal="transformer"), CONTRAST, {}),
    "wti": ("weighted token interaction (WTI)", "clip4clip", dict(interaction="wti"), CONTRAST, {}),
    "no margin": ("ProTA without the adaptive margin", "prota", {}, CONTRAST, dict(kl=1e-3)),
    "no kl": ("ProTA without KL", "prota", {}, ADAPTIVE, {}),
    "unified": ("meanP with the unified loss", "clip4clip", {}, dict(unified=dict(margin=0.2, temperature=0.05)), {}),
}


def worlds(setting: Setting, data: pathlib.Path) -> dict[str, dict]:
    """`config.data` of every world by name; they differ in one difficulty from the middle one."""
    middle = dict(clutter=setting.clutter[MIDDLE], mention=setting.mention[MIDDLE])
    found = {"middle": middle}
    for place in (0, 2):
        found[f"clutter-{LEVELS[place]}"] = middle | dict(clutter=setting.clutter[place])
        found[f"mention-{LEVELS[place]}"] = middle | dict(mention=setting.mention[place])
    alone = {split: 0 for split in ("train", "val")}
    return {
        name: dict(
            name="scenes",
            root=str(data / f"claims-videos-{setting.name}-{name}"),
            split="train",
            options=dict(kind="videos", **setting.world | (alone if name != "middle" else {}), **difficulty, size=0),
        )
        for name, difficulty in found.items()
    }


def _complete(
    setting: Setting, found: dict, difficulty: str, steps: int, model: dict, losses: dict, regularisers: dict
) -> dict:
    """A complete config: trained in the middle world, tested in the three of a difficulty."""
    shown = dict(name="retrieval", examples=0)
    tests = {
        level: shown | dict(data=dict(split="test") | _other(found, difficulty, level), relevance="facts")
        for level in LEVELS
    }
    every = max(steps // setting.evaluations, 1)
    return configs.complete(
        dict(
            batch_size=setting.batch,
            steps=steps,
            data=found["middle"],
            text=dict(name="words", length=32),
            model=model,
            losses=losses,
            regularisers=regularisers,
            optim=dict(name="adam", lr=2e-3, clip=2.0, schedule=dict(name="cosine", warmup=steps // 10)),
            evals=dict(dev=shown | dict(every=every, data=dict(split="val"), relevance="identity"), **tests),
            best="dev/rsum",
            log_every=10,
        )
    )


def _other(found: dict, difficulty: str, level: str) -> dict:
    """What an evaluation reads instead of the world of training; nothing at the middle level."""
    if level == LEVELS[MIDDLE]:
        return {}
    world = found[f"{difficulty}-{level}"]
    return dict(root=world["root"], options=world["options"])


def plan(setting: Setting, data: pathlib.Path) -> list[Configuration]:
    """All configurations, without their seeds."""
    found, made = worlds(setting, data), []
    for key, (title, changes) in GRAPHS.items():
        size = dict(dim=setting.dim, temperature_start=0.07)
        config = _complete(
            setting, found, "clutter", setting.steps[0], dict(name="visern", **size, **changes), CONTRAST, {}
        )
        made.append(Configuration(f"graph/{key}", title, config, SECONDS["graph"]))
    for key, (title, name, changes, losses, regularisers) in TOKENS.items():
        size = dict(dim=setting.dim, text="gru")
        model = dict(name=name, **size, **changes)
        config = _complete(setting, found, "mention", setting.steps[1], model, losses, regularisers)
        made.append(Configuration(f"tokens/{key}", title, config, SECONDS["tokens"]))
    return made


SECONDS = {"graph": 60.0, "tokens": 60.0}  # on two cores, quick setting
