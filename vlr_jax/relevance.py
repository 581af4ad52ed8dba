"""Who is relevant to whom: `name(visual, text) -> (relevance [V, T], where [V, T])`, chosen by `config.relevance.name`.

`visual` and `text` are dicts of per-row arrays (numpy or jax), slices of a batch or of an index; any block works, in
training, evaluation and monitors alike. Invariant: relevance is exactly 1.0 on true pairs and less elsewhere, so
`ranking.positives` is exact. `where` False = the pair is neither positive nor negative.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

# What each reads of a row beside `visual_id`, `source_id` and `row`.
READS = {
    "facts": ("visual_facts", "text_facts"),
    "caption": ("visual_caption_vecs", "caption_vec"),
    "caption_cosine": ("visual_caption_vecs", "caption_vec"),
}
Rows = Mapping[str, Any]
Pairs = tuple[Float[Array, "v t"], Bool[Array, "v t"]]


def identity(visual: Rows, text: Rows) -> Pairs:
    """1.0 where `visual_id` is equal, else 0.0: two rows of one visual are both positives of each other's texts."""
    return _equal(visual, text, "visual_id", "identity")


def diagonal(visual: Rows, text: Rows) -> Pairs:
    """1.0 where `row` (the place in the batch) is equal, else 0.0.

    The reading of the VSE++ lineage, which counts another text of the same visual as a negative; a config that uses it
    says so.
    """
    return _equal(visual, text, "row", "diagonal")


def moment(visual: Rows, text: Rows) -> Pairs:
    """1.0 where `row` is equal, of true moments and texts; elsewhere 0.0, and not `where` the `source_id` is equal.

    Another text about the same uncut video may well be true of this moment, so it is neither right nor wrong.
    """
    pair, _ = _equal(visual, text, "row", "moment")
    same, _ = _equal(visual, text, "source_id", "moment")
    return pair, (pair >= 1.0) | (same < 1.0)


def caption(visual: Rows, text: Rows) -> Pairs:
    """RSC, half of 1 + the `caption_cosine`: from 0 to below 1.0; 1.0 on pairs of equal `visual_id`.

    The relevance score of Li et al., arXiv 2305.16566, which `losses.smooth_ndcg` ranks by.
    """
    return _graded((1 + _best_cosine(visual, text, "caption")) / 2, visual, text)


def caption_cosine(visual: Rows, text: Rows) -> Pairs:
    """The best cosine of the text's `caption_vec` with the visual's own captions (`visual_caption_vecs`), below 1.0.

    1.0 on pairs of equal `visual_id`. The vectors are those of any sentence encoder, of any length; a vector of zeros
    has cosine 0. The pseudo labels of the Kendall losses (arXiv 2210.11319) and of `losses.adaptive_margin`.
    """
    return _graded(_best_cosine(visual, text, "caption_cosine"), visual, text)


def facts(visual: Rows, text: Rows) -> Pairs:
    """The share of the text's facts that are true in the visual, kept below 1.0; 1.0 on pairs of equal `visual_id`."""
    said, true = _column(text, "text_facts", "facts"), _column(visual, "visual_facts", "facts")
    return _graded(fact_share(true, said), visual, text)


def fact_share(
    visual_facts: Bool[Array | np.ndarray, "v k"], text_facts: Bool[Array | np.ndarray, "t k"]
) -> Float[Array, "v t"]:
    """The share of each text's facts that are true in each visual; 0 for a text that says nothing.

    No relevance but a score: what the oracle of `evaluators/retrieval.py` ranks by.
    """
    true, said = jnp.asarray(visual_facts, jnp.float32), jnp.asarray(text_facts, jnp.float32)
    right = jnp.einsum("vk,tk->vt", true, said, precision=jax.lax.Precision.HIGHEST)
    return right / jnp.maximum(jnp.sum(said, axis=1), 1.0)


def choices() -> list[str]:
    """The names that `config.relevance.name` may have: the functions of this file that take (visual, text)."""
    return sorted(
        name
        for name, thing in globals().items()
        if inspect.isfunction(thing) and list(inspect.signature(thing).parameters) == ["visual", "text"]
    )


def named(name: str) -> Callable[[Rows, Rows], Pairs]:
    """The relevance called `name`.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    if name not in choices():
        raise ValueError(f"No relevance {name!r}; relevance.py has: {', '.join(choices())}")
    return globals()[name]


def _column(rows: Rows, key: str, name: str) -> Array:
    if key not in rows:
        raise ValueError(f"relevance {name!r} needs {key!r} on every row; the rows have: {', '.join(sorted(rows))}")
    return jnp.asarray(rows[key])


def _graded(grades: Float[Array, "v t"], visual: Rows, text: Rows) -> Pairs:
    """`grades`, at most the largest number below 1.0; exactly 1.0 on pairs of equal `visual_id`."""
    pair, where = identity(visual, text)
    return jnp.where(pair >= 1.0, 1.0, jnp.minimum(grades, 1 - jnp.finfo(grades.dtype).epsneg)), where


def _best_cosine(visual: Rows, text: Rows, name: str) -> Float[Array, "v t"]:
    """The largest of the cosines of a text's vector with each of a visual's K, one of the K at a time."""
    own, said = (_unit(_column(*where, name)) for where in ((visual, "visual_caption_vecs"), (text, "caption_vec")))

    def one_more(best, vecs):
        return jnp.maximum(best, jnp.einsum("ve,te->vt", vecs, said, precision=jax.lax.Precision.HIGHEST)), None

    # A scan, so that there are never K matrices: XLA may make one product of several that share an operand.
    lowest = jnp.full((len(own), len(said)), -1, jnp.promote_types(own.dtype, said.dtype))
    return jax.lax.scan(one_more, lowest, jnp.moveaxis(own, 1, 0))[0]


def _unit(vecs: Array) -> Array:
    """Vectors of length 1, in at least float32; zeros stay zeros."""
    vecs = vecs.astype(jnp.promote_types(vecs.dtype, jnp.float32))
    length = jnp.linalg.norm(vecs, axis=-1, keepdims=True)
    return vecs / jnp.where(length == 0, 1, length)


def _equal(visual: Rows, text: Rows, key: str, name: str) -> Pairs:
    v, t = _column(visual, key, name), _column(text, key, name)
    relevance = (v[:, None] == t[None, :]).astype(jnp.float32)
    return relevance, jnp.ones(relevance.shape, bool)
