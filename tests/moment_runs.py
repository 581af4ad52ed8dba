"""Runs of moment models for tests, made without training; videos, and a model that knows where their moments are."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vlr_jax import config as configs
from vlr_jax import files, pipeline, train
from vlr_jax.checkpoint import Checkpoints
from vlr_jax.layers import pooling
from vlr_jax.layers.disentangle import best_clip
from vlr_jax.state import TrainState
from vlr_jax.timeline import Timeline
from vlr_jax.types import Encoded, Moments


class Tiny(nn.Module):
    """The least that is a moment model and can rank videos; compiles in no time."""

    visual_dim: int
    vocabulary: int = 0
    text_dim: int | None = None
    dim: int = 8
    queries: int = 3

    def setup(self):
        self.words = nn.Embed(self.vocabulary or 1, self.dim)
        self.clips, self.answer = nn.Dense(self.dim), nn.Dense(4 * self.queries)

    def _sentence(self, batch):
        words = batch["text"] if self.text_dim else self.words(batch["text"])
        return pooling.masked_mean(words[..., : self.dim].astype(jnp.float32), batch["text_mask"])

    def __call__(self, batch, *, train=False):
        clips, sentence = self.clips(batch["visual"].astype(jnp.float32)), self._sentence(batch)
        saliency = jnp.einsum("bfd,bd->bf", clips, sentence)
        weights = jax.nn.softmax(jnp.where(batch["visual_mask"], saliency, -1e9))
        seen = jnp.einsum("bf,bfd->bd", weights, clips)
        out = self.answer(jnp.concatenate([seen, sentence], -1)).reshape(1, len(clips), self.queries, 4)
        return Moments(jax.nn.sigmoid(out[..., :2]), out[..., 2:], saliency, extra={"weights": weights})

    def encode_visual(self, batch, *, train=False):
        tokens = pooling.l2_normalise(self.clips(batch["visual"].astype(jnp.float32)))
        mask = batch["visual_mask"]
        return Encoded(pooling.l2_normalise(pooling.masked_mean(tokens, mask)), tokens, mask)

    def encode_text(self, batch, *, train=False):
        return Encoded(pooling.l2_normalise(self._sentence(batch)))

    def similarity(self, visual, text):
        return {"sim": best_clip(visual.tokens, visual.mask, text.pooled)}

    def temperature(self):
        return None


def plan(root, **keys) -> dict:
    """A complete config of the tiny model on scenes with moments, prepared in `root`."""
    test = dict(name="moment", data=dict(split="test"), protocol="qvhighlights", batch_size=8)
    return configs.complete(
        dict(
            data=dict(name="scenes", root=str(root), split="train"),
            text=dict(name="words", length=16),
            task="moment",
            model=dict(name="moment_runs:Tiny"),
            losses={},
            optim=dict(name="adam", lr=1e-3),
            batch_size=8,
            steps=1,
            evals=dict(val=dict(name="moment", every=1, data=dict(split="val"), batch_size=8), test=test),
            best="val/MR-full-mAP",
        )
        | keys
    )


OPTIONS = dict(kind="moments", clips=24, queries=2, size=0, train=16, val=8, test=8)


def make(workdir, config: dict, *, rows: int = 8) -> None:
    """A run as training leaves it, of parameters drawn at random: nothing is compiled."""
    tokenizer = pipeline.tokenizer(config)
    spec = pipeline.spec(config["data"], tokenizer)
    task = train.make_task(config, spec)
    split = pipeline.open_split(config["data"], tokenizer, ())
    first = next(split.train(batch_size=rows, seed=0, view=getattr(task, "view", "pairs")))
    shapes = dict(jax.eval_shape(lambda b: task.init(jax.random.key(0), b), first))
    rng = np.random.default_rng(0)
    draw = lambda leaf: jnp.asarray(rng.normal(0, 0.7, leaf.shape), leaf.dtype)
    params = jax.tree.map(draw, shapes.pop("params"))
    configs.claim(workdir, config)
    files.write(workdir / "tokenizer.json", tokenizer.to_json())
    row = {k: (list(v.shape[1:]), v.dtype.name) for k, v in first.items()}
    meta = {"data": split.prepared["fingerprint"], "tokenizer": json.loads(tokenizer.to_json())}
    with Checkpoints(workdir) as checkpoints:
        state = TrainState(jnp.int32(1), params, {}, {}, {})
        checkpoints.save_best(state, meta | {"step": 1, "best": 0.0, "spec": spec, "row": row})


class Videos:
    """Videos of different lengths in which one thing is to be seen at some time, as a `split.Split` with moments.

    A clip's feature is 1 where it is; a text's token is the number of what is asked for.
    """

    def __init__(self, lengths, windows, *, clip=2.0, things=1, buckets=None):
        self.lengths, self.clip = list(lengths), clip
        self.true = windows  # (visual, thing) → (first clip, clip behind the last)
        n = len(lengths)
        index = {
            "lengths": np.array(lengths), "clip_lengths": np.full(n, clip, np.float32),
            "durations": np.array(lengths) * clip, "windows": np.zeros((0, 2)), "n_windows": np.zeros(things, int),
            "text_names": np.array([f"q{t}" for t in range(things)]), "sources": np.array([f"s{v}" for v in range(n)]),
        }  # fmt: skip
        about = {"moments": {"backbones": [], "annotators": 0}}
        self.timeline = Timeline(index, about, {"buckets": buckets}, np.zeros(things, int))
        self.things, self.names, self.reads = things, [f"v{v}" for v in range(n)], 0

    def record(self, visual):
        self.reads += 1
        features = np.zeros((self.lengths[visual], self.things), np.float16)
        for (video, thing), (first, behind) in self.true.items():
            if video == visual:
                features[first:behind, thing] = 1
        return {"visual": features}

    def text(self, t, record=None):
        return {"text": np.full(3, t, np.int32), "text_mask": np.ones(3, bool), "text_id": np.int32(t)}


def knows(variables, batch):
    """A model that says from which clip to which the thing asked for is seen, if at all."""
    visual = batch["visual"].astype(jnp.float32)
    there = jnp.take_along_axis(visual, batch["text"][:, :1, None], axis=2)[..., 0] * batch["visual_mask"]  # [B, F]
    n = jnp.sum(batch["visual_mask"], axis=1)
    places = jnp.arange(there.shape[1])
    first = jnp.min(jnp.where(there > 0, places, there.shape[1]), axis=1)
    behind = jnp.max(jnp.where(there > 0, places + 1, 0), axis=1)
    seen = jnp.any(there > 0, axis=1)
    best = jnp.where(seen[:, None], jnp.stack([first / n, behind / n], 1), 0.0)
    windows = jnp.stack([best, jnp.zeros_like(best)], 1)  # the second finds nothing
    scores = jnp.stack([jnp.where(seen, 0.9, 0.1), jnp.full(len(n), 0.05)], 1) * variables["certainty"]
    return {"windows": windows, "scores": scores, "saliency": there * variables["certainty"], "extra": {}}
