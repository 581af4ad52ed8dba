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

# The grade of a pair that is right in every fact but is not a true pair: the largest float32 below 1.
BELOW_ONE = 1 - 2.0**-24

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


def facts(visual: Rows, text: Rows) -> Pairs:
    """The share of the text's facts that are true in the visual, kept below 1.0; 1.0 on pairs of equal `visual_id`."""
    said, true = _column(text, "text_facts", "facts"), _column(visual, "visual_facts", "facts")
    pair, where = identity(visual, text)
    return jnp.where(pair >= 1.0, 1.0, jnp.minimum(fact_share(true, said), BELOW_ONE)), where


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


def _equal(visual: Rows, text: Rows, key: str, name: str) -> Pairs:
    v, t = _column(visual, key, name), _column(text, key, name)
    relevance = (v[:, None] == t[None, :]).astype(jnp.float32)
    return relevance, jnp.ones(relevance.shape, bool)
