"""Which runs check the claims about moments: worlds that differ in one difficulty, models, ablations, settings."""

import pathlib
from typing import NamedTuple

from claims_plan import Configuration

from vlr_jax import config as configs

LEVELS = ("easy", "middle", "hard")
MIDDLE = 1  # what everything is trained at, and the ablations are compared at
DIFFICULTIES = ("noise", "background", "blur")
DENSE = f"background-{LEVELS[-1]}"  # the world that some are trained in instead
OWN = "own"  # the evaluation on the test split of the world of training


class Setting(NamedTuple):
    """One size of everything. `noise`, `background` and `blur`: of each level, the two others at their middle."""

    name: str
    seeds: int
    world: dict
    noise: tuple[float, float, float]
    background: tuple[float, float, float]
    blur: tuple[float, float, float]
    steps: int
    lr: float
    model: dict
    batch: int


HARD = dict(noise=(0.5, 1.0, 2.0), background=(0.0, 0.5, 1.0), blur=(0.0, 2.0, 4.0))
# One word for each idea, so that short runs are about moments, not about learning synonyms.
QUICK = Setting(
    "quick", 3, dict(train=2000, val=250, test=250, clips=60, queries=3, synonyms=1), **HARD, steps=600, lr=1e-3,
    model=dict(dim=64, heads=4, hidden=128, queries=6, word_dim=64, gru_dim=64, input_dropout=0.1), batch=16,
)  # fmt: skip
FULL = Setting(
    "full", 5, dict(train=12000, val=500, test=1000, clips=75, queries=3, synonyms=3), **HARD, steps=20000, lr=2e-4,
    model=dict(dim=256, heads=8, hidden=1024, queries=10, word_dim=300, gru_dim=256, input_dropout=0.1), batch=32,
)  # fmt: skip
SMOKE = Setting(
    "smoke", 2, dict(train=16, val=8, test=8, clips=24, queries=2, synonyms=3), **HARD, steps=3, lr=1e-3,
    model=dict(dim=16, heads=2, hidden=16, queries=3, word_dim=8, gru_dim=8, input_dropout=0.1), batch=8,
)  # fmt: skip
SETTINGS = {setting.name: setting for setting in (QUICK, FULL, SMOKE)}

# What trains CDNet's alignment levels, weights INFERRED: the global term ranks, the fine one is a regulariser.
GLOBAL = dict(info_nce=dict(temperature=0.07, weight=0.3))
FINE = dict(fine=0.5)
MODELS = {"moment_detr": "Moment-DETR", "qd_detr": "QD-DETR", "cdnet": "CDNet"}
# Ablations of CDNet at the middle level: key → (title, what differs from the model's defaults, losses, regularisers).
# None of its parts is QD-DETR, all of them CDNet, which are among the models.
ABLATIONS = {
    "qsd": ("CDNet, disentanglement alone (QSD)", dict(denoise=False), GLOBAL, FINE),
    "cdd": ("CDNet, denoisement alone (CDD)", dict(disentangle=False), {}, {}),
    "range 10": ("CDNet, offsets within 10 clips", dict(offset_range=10.0), GLOBAL, FINE),
    "groups 1": ("CDNet, 1 group of offsets", dict(groups=1), GLOBAL, FINE),
    "no fine": ("CDNet without the fine-grained term", {}, GLOBAL, {}),
    "no global": ("CDNet without the global term", {}, {}, FINE),
    "no terms": ("CDNet without both terms", {}, {}, {}),
}


def worlds(setting: Setting, data: pathlib.Path) -> dict[str, dict]:
    """`config.data` of every world by name; they differ in one difficulty from the middle one.

    The videos, texts and windows are the same in all of them; those that are only tested have no other split.
    """
    middle = {name: getattr(setting, name)[MIDDLE] for name in DIFFICULTIES}
    found = {LEVELS[MIDDLE]: middle}
    for name in DIFFICULTIES:
        for place in (0, 2):
            found[f"{name}-{LEVELS[place]}"] = middle | {name: getattr(setting, name)[place]}
    alone = {split: 0 for split in ("train", "val")}
    return {
        name: dict(
            name="scenes",
            root=str(data / f"claims-moments-{setting.name}-{name}"),
            split="train",
            options=dict(kind="moments", **setting.world) | difficulty | dict(jitter=0.5, size=0)
            | ({} if name in (LEVELS[MIDDLE], DENSE) else alone),
        )
        for name, difficulty in found.items()
    }  # fmt: skip


def _complete(setting, world: dict, others: dict, model: dict, losses: dict, regularisers: dict) -> dict:
    """A complete config: trained and tested in one world, tested in others; the last step's, nothing is selected."""
    shown = dict(name="moment", protocol="qvhighlights", examples=0)
    tests = {OWN: {}} | {name: {key: data[key] for key in ("root", "options")} for name, data in others.items()}
    return configs.complete(
        dict(
            task="moment",
            batch_size=setting.batch,
            steps=setting.steps,
            data=world,
            text=dict(name="words", length=16),
            model=model,
            losses=losses,
            relevance=dict(name="moment"),
            regularisers=regularisers,
            optim=dict(
                name="adamw", lr=setting.lr, decay=1e-4, clip=0.1,
                schedule=dict(name="cosine", warmup=setting.steps // 10),
            ),
            evals={name: shown | dict(data=dict(split="test") | data) for name, data in tests.items()},
            best="",
            log_every=10,
        )
    )  # fmt: skip


def plan(setting: Setting, data: pathlib.Path) -> list[Configuration]:
    """All configurations, without their seeds."""
    found, made = worlds(setting, data), []
    middle = found.pop(LEVELS[MIDDLE])
    terms = {name: (GLOBAL, FINE) if name == "cdnet" else ({}, {}) for name in MODELS}

    def add(key, title, world, others, name, changes, losses, regularisers):
        config = _complete(setting, world, others, dict(name=name, **setting.model) | changes, losses, regularisers)
        made.append(Configuration(key, title, config, SECONDS[name]))

    for name, title in MODELS.items():
        add(f"model/{name}", title, middle, found, name, {}, *terms[name])
    for key, (title, *what) in ABLATIONS.items():
        add(f"part/{key}", title, middle, {}, "cdnet", *what)
    for name, title in MODELS.items():
        add(f"dense/{name}", f"{title}, trained among more background", found[DENSE], {}, name, {}, *terms[name])
    return made


SECONDS = {"moment_detr": 35.0, "qd_detr": 55.0, "cdnet": 80.0}  # on one core, two at once, quick setting
