"""Semantic correlation graph over the regions of one frame, and reasoning on it: random walks, and VSRN's layer.

ViSERN: Feng et al., "Exploiting Visual Semantic Reasoning for Video-Text Retrieval", IJCAI 2020. VSRN: Li et al.,
ICCV 2019. A graph is batched in front, `[N, R, …]`: N frames of R regions each, mask `[N, R]` of the real ones. What is
not real has no edge, no probability and the value 0.

VSRN's layer is that of the official code. Of ViSERN no code is public, and its text could be read only in part: that
the graph is fully connected and undirected, and that edge weights are the probabilities of a random walk, is the
paper's; every formula of `transition`, `walk` and `Reasoning` is INFERRED.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from vlr_jax.layers.batch_norm import BatchNorm
from vlr_jax.layers.product import Dense, product, uniform

TRANSITIONS = ("undirected_exp", "softmax", "relu_selfloop", "perron")
ACTIVATIONS = {"relu": nn.relu, "none": lambda x: x}
LEAST = 1e-8  # of a stationary probability that something is divided by


def transition(edges: Array, mask: Array, kind: str = "undirected_exp") -> Array:
    """Probabilities P of a step from region i to region j: P = D⁻¹A of non-negative edge weights A.

    INFERRED (that P = D⁻¹A is the likeliest; the weights are open):
        "undirected_exp": a = exp((e_ij + e_ji) / 2). The walk is reversible: π_i P_ij = π_j P_ji.
        "softmax", "perron": a = exp(e_ij); one such step is attention. (What "perron" adds is `perron`.)
        "relu_selfloop": a = max(e_ij, 0) + 1 where i = j; the renormalised graph of Kipf and Welling, ICLR 2017.

    Args:
        edges: float `[N, R, R]`, e_ij of any size and sign.
        mask: bool `[N, R]`, the real regions.
        kind: one of these.

    Returns:
        `[N, R, R]`: rows of real regions sum to 1; rows and columns of others are 0.

    Raises:
        ValueError: another `kind`.
    """
    if kind not in TRANSITIONS:
        raise ValueError(f"transition is {kind!r}; there are: {', '.join(TRANSITIONS)}")
    pairs = mask[..., :, None] & mask[..., None, :]
    if kind == "relu_selfloop":
        weights = jnp.where(pairs, nn.relu(edges) + jnp.eye(edges.shape[-1], dtype=edges.dtype), 0)
        return weights / jnp.maximum(jnp.sum(weights, axis=-1, keepdims=True), 1)  # the loop alone is 1
    # Row by row, as a softmax: exp of the frame's largest edge away would leave rows without any weight.
    logits = _symmetric(edges) if kind == "undirected_exp" else edges
    return jnp.where(pairs, jax.nn.softmax(jnp.where(pairs, logits, jnp.finfo(edges.dtype).min)), 0)


def restarted(steps: Array, mask: Array, restart: float) -> Array:
    """(1 − α) P + α 1rᵀ / Σr: with probability α = `restart` the walk goes on from any real region, all alike."""
    if not restart:
        return steps
    pairs = mask[..., :, None] & mask[..., None, :]
    count = jnp.maximum(jnp.sum(mask, axis=-1, dtype=steps.dtype), 1)[..., None, None]
    return (1 - restart) * steps + restart * jnp.where(pairs, 1 / count, 0)


def walk(steps: Array, count: int) -> Array:
    """P^k `[N, R, R]`, the probabilities of `count` = k ≥ 1 steps."""
    power = steps
    for _ in range(count - 1):
        power = _product("nij,njk->nik", power, steps)
    return power


def stationary(steps: Array, mask: Array) -> Array:
    """Where a walk is after 20 steps from anywhere, `[N, R]`: power iteration for π = πP, as near as that comes.

    Sums to 1 over the real regions, 0 elsewhere. A walk that never mixes (two regions that change places) has no limit;
    of a reversible one `stationary_undirected` is exact.
    """
    start = mask.astype(steps.dtype)
    place = start / jnp.maximum(jnp.sum(start, axis=-1, keepdims=True), 1)
    four = walk(walk(steps, 2), 2)
    for _ in range(5):
        place = jnp.sum(place[..., :, None] * four, axis=-2)
    return place


def stationary_undirected(edges: Array, mask: Array) -> Array:
    """π_i = D_ii / ΣD of "undirected_exp" without restart, `[N, R]`, in closed form: sums to 1 over real regions."""
    pairs, low = mask[..., :, None] & mask[..., None, :], jnp.finfo(edges.dtype).min
    degree = jax.nn.logsumexp(jnp.where(pairs, _symmetric(edges), low), axis=-1)  # log D_ii
    return jnp.where(mask, jax.nn.softmax(jnp.where(mask, degree, low)), 0)


def perron(steps: Array, place: Array) -> Array:
    """½ (Π^½ P Π^−½ + Π^−½ Pᵀ Π^½) `[N, R, R]`, with Π the diagonal of the stationary distribution `place [N, R]`.

    One minus the Laplacian of a directed graph (Chung 2005; Ma et al. 2019). Symmetric; of a reversible walk it is
    D^−½ A D^−½. INFERRED with little confidence. Its rows do not sum to 1.
    """
    root = jnp.sqrt(jnp.maximum(place, LEAST))
    scaled = root[..., :, None] * steps / root[..., None, :]
    return _symmetric(scaled)


def graph(edges: Array, mask: Array, kind: str, steps: int = 1, restart: float = 0.0) -> tuple[Array, Array]:
    """What a layer applies, `[N, R, R]`, and the stationary distribution of one step, `[N, R]`.

    The first is P^k with restarts, or for "perron" the k-th power of the symmetric operator of P.
    """
    once = restarted(transition(edges, mask, kind), mask, restart)
    closed = kind == "undirected_exp" and not restart
    place = stationary_undirected(edges, mask) if closed else stationary(once, mask)
    return walk(perron(once, place) if kind == "perron" else once, steps), place


class Reasoning(nn.Module):
    """One layer: act(P^k X W) + X on the graph e_ij = φ(x_i)ᵀ ϕ(x_j), `[N, R, C]` → same; INFERRED, see `graph`.

    The affinity is VSRN's equation 1, with φ and ϕ linear maps C → C. The three maps of a layer lie side by side in
    `kernel [C, 3C]`: φ, ϕ, W (`bias [2C]` of the first two), so that they are one matrix product.

    Attributes:
        kind, steps, restart: of `graph`.
        tie: φ = ϕ; `kernel [C, 2C]`, `bias [C]`.
        activation: "relu" or "none".
        dtype: of the inputs of the matrix products; probabilities and sums are at least float32.
    """

    kind: str = "undirected_exp"
    steps: int = 2
    restart: float = 0.0
    tie: bool = False
    activation: str = "relu"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, mask: Array) -> tuple[Array, Array]:
        """`x [N, R, C]`, zero where `mask [N, R]` is False → the same form, and the stationary distribution `[N, R]`.

        The distribution is that of the graph of `x`, the layer's input.
        """
        size, maps = x.shape[-1], 1 if self.tie else 2
        start = uniform(size**-0.5)
        kernel = self.param("kernel", start, (size, (maps + 1) * size))
        bias = self.param("bias", start, (maps * size,))
        bias = jnp.concatenate([bias, jnp.zeros_like(bias[:size])])  # W has none
        y = product(x.reshape(-1, size), kernel.astype(self.dtype)).reshape(*x.shape[:-1], -1) + bias
        query, key, value = (y[..., i * size : (i + 1) * size] for i in ((0, 0, 1) if self.tie else (0, 1, 2)))
        edges = _product("nid,njd->nij", query.astype(self.dtype), key.astype(self.dtype))
        operator, place = graph(edges, mask, self.kind, self.steps, self.restart)
        # P (X W), not (P X) W: W then is part of the one large product.
        moved = _product("nij,njd->nid", operator.astype(self.dtype), value.astype(self.dtype))
        return x + jnp.where(mask[..., None], ACTIVATIONS[self.activation](moved), 0).astype(x.dtype), place


class RsGCN(nn.Module):
    """VSRN's layer (official code, `Rs_GCN`): W ((θ(x) φ(x)ᵀ / n) g(x)) + x, batch-normalised before it is added.

    n counts the real regions. No softmax: affinities are what they are, and what is added grows with the third power of
    x. The official code knows no mask; with all regions real this is its layer, starting as the identity as there.

    Attributes:
        norm: batch normalisation of W's result; without, W itself starts at zero.
        dtype: of the inputs of the matrix products.
    """

    norm: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, mask: Array, *, train: bool) -> Array:
        """`x [N, R, C]`, zero where `mask [N, R]` is False → the same form."""
        size, dtype = x.shape[-1], self.dtype
        theta, phi, g = (Dense(size, dtype=dtype, name=name)(x).astype(dtype) for name in ("theta", "phi", "g"))
        pairs = mask[..., :, None] & mask[..., None, :]
        count = jnp.maximum(jnp.sum(mask, axis=-1), 1)[:, None, None]
        affinity = jnp.where(pairs, _product("nid,njd->nij", theta, phi) / count, 0)
        y = _product("nij,njd->nid", affinity.astype(dtype), g)
        zeros = nn.initializers.zeros
        if self.norm:
            y = Dense(size, dtype=dtype, name="out")(y)
            y = BatchNorm(scale_start=0.0, name="out_norm")(y.reshape(-1, size), mask.reshape(-1), train=train)
            y = y.reshape(x.shape)
        else:
            y = Dense(size, dtype=dtype, start=zeros, bias_start=zeros, name="out")(y)
        return x + jnp.where(mask[..., None], y, 0).astype(x.dtype)


def _symmetric(x: Array) -> Array:
    return (x + jnp.swapaxes(x, -1, -2)) / 2


def _product(axes: str, a: Array, b: Array) -> Array:
    """`jnp.einsum` of two arrays, with sums and result of at least float32."""
    return jnp.einsum(axes, a, b, preferred_element_type=jnp.promote_types(a.dtype, jnp.float32))
