"""Scores of every visual and text from the similarities of their tokens, none of which outlives its block.

Token interaction (TI) and weighted token interaction (WTI) of DRL (Wang et al., "Disentangled Representation Learning
for Text-Video Retrieval", arXiv 2203.07111; github.com/foolwood/DRL), and the partial-related aggregation of ProTA
(arXiv 2404.12216), which has a softmax in place of their maximum. With S_lf the similarity of token l of a text and
token f of a visual, w and u the weights of the tokens of each, and λ the sharpness,

    A(S; λ) = ½ (Σ_l w_l Σ_f S_lf softmax_f(λ S_lf) + Σ_f u_f Σ_l S_lf softmax_l(λ S_lf)).

λ = 0 is the mean, λ → ∞ the maximum. What lies behind a mask takes part in nothing.

S of all pairs is `[T, L, F, V]`: 400 MB for 512 × 512 × 32 × 12. Here it is made a block at a time, and again in the
backward pass, whose mathematics is written out, so that it keeps nothing but inputs. In a block tokens come before the
rows of the second side, so that what is added up lies in contiguous rows.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from vlr_jax.layers.product import Dense

# Token pairs of a block on one device: what a CPU's second cache holds; elsewhere, what keeps the device busy.
PAIRS = {"cpu": 400_000}
PAIRS_ELSEWHERE = 16_000_000
NEG = -1e30  # added to logits of tokens behind a mask


@dataclasses.dataclass(frozen=True)
class Space:
    """What the similarity S of two tokens is: a sum x of dot products, through a kernel or as it is.

    Attributes:
        products: which dot products are added, as positions in the tokens that `interact` is given.
        kernels: K > 0: S = mean_k exp(-(1 - x) / σ_k²), σ_k² = `scale` · 2^(k - ⌊K / 2⌋), k = 0 … K - 1. Between unit
            vectors 1 - x is half the squared distance, and S a mean of Gaussian kernels. 0: S = x.
        scale: of the kernels' variances.
    """

    products: tuple[int, ...] = (0,)
    kernels: int = 0
    scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class _Plan:
    spaces: tuple[Space, ...]
    sharpness: float | None


def interact(
    visual: tuple[Array, ...],
    text: tuple[Array, ...],
    *,
    visual_weights: Array,
    text_weights: Array,
    visual_mask: Array,
    text_mask: Array,
    sharpness: float | None,
    spaces: tuple[Space, ...] = (Space(),),
) -> tuple[Array, ...]:
    """A(S; λ) of every pair, `[V, T]` in at least float32, for each of `spaces`.

    Differentiable once, in reverse mode, in tokens and weights. Memory beside inputs, results and gradients: some
    blocks. Either side, or both, may be split over the axis "data" of the mesh in context; of arrays of token pairs
    nothing moves between devices.

    Args:
        visual: tokens `[V, F, D]`, one array for every product; D and dtype are that of the text's.
        text: tokens `[T, L, D]` likewise.
        visual_weights: u, `[V, F]`, 0 behind the mask.
        text_weights: w, `[T, L]`, 0 behind the mask.
        visual_mask: bool `[V, F]`. Pairs of which one side has no real token score 0.
        text_mask: bool `[T, L]`.
        sharpness: λ ≥ 0; None = infinite, the maximum (equal ones share its gradient).
        spaces: what S is.
    """
    plan = _Plan(tuple(spaces), None if sharpness is None else float(sharpness))
    sides = (tuple(text), text_weights, text_mask), (tuple(visual), visual_weights, visual_mask)
    # The inner loop goes along the side of fewer rows: in training that is the one that every device has whole
    # (`terms.py`), so that each keeps its own rows of the other side, and their gradients, to itself.
    if len(visual_mask) < len(text_mask):
        scores = _interact(plan, *sides[::-1])
    else:
        scores = [x.T for x in _interact(plan, *sides)]
    pair = jnp.any(visual_mask, axis=1)[:, None] & jnp.any(text_mask, axis=1)[None, :]
    return tuple(jnp.where(pair, x, 0) for x in scores)


class TokenWeights(nn.Module):
    """How much each token of a set counts: softmax, over the real ones, of what a small network says of it (DRL).

    Attributes:
        layers: linear maps, ReLU between them; all but the last keep the width.
        dtype: of the inputs of the products.
    """

    layers: int = 2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Array, mask: Array) -> Array:
        """`[N, S, D]`, bool `[N, S]` → `[N, S]` in at least float32; 0 behind the mask, all 0 without a real token."""
        start, x = dict(start=nn.initializers.normal(0.02), bias_start=nn.initializers.zeros), tokens
        for i in range(self.layers - 1):
            x = nn.relu(Dense(tokens.shape[-1], dtype=self.dtype, name=f"hidden_{i}", **start)(x))
        logits = Dense(1, dtype=self.dtype, name="out", **start)(x)[..., 0]
        return jnp.where(mask, jax.nn.softmax(logits + jnp.where(mask, 0.0, NEG), axis=-1), 0.0)


def equal_weights(mask: Array) -> Array:
    """One over the number of real tokens, `[N, S]` float32; 0 behind the mask."""
    return mask / jnp.maximum(jnp.sum(mask, axis=-1, keepdims=True), 1).astype(jnp.float32)


def kernel(x: Array, kernels: int, scale: float) -> tuple[Array, Array]:
    """The mean of Gaussian kernels of cosines x, as `Space` says, and its slope; of any shape."""
    widest = scale * 2.0 ** (kernels - 1 - kernels // 2)
    power = jnp.exp((x - 1) / widest)  # each kernel is the square of the next wider one
    value, slope = power, power
    for k in range(1, kernels):
        power = power * power
        value, slope = value + power, slope + 2.0**k * power
    return value / kernels, slope / (kernels * widest)


# From here on a side is (tokens `([A, I, D], …)`, weights `[A, I]`, mask `[A, I]`), the second one with B and J.


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _interact(plan: _Plan, a: tuple, b: tuple) -> list[Array]:
    """`[A, B]` for every space."""
    cut_a, cut_b = _cuts(a[1], b[1])
    a_blocks, b_blocks = jax.tree.map(cut_a, a), jax.tree.map(cut_b, b)

    def beside(b):
        b = _turned(b)
        return jax.lax.map(lambda a: _scores(plan, a, b), a_blocks)

    return [cut_a.join(cut_b.join(x, 2)) for x in jax.lax.map(beside, b_blocks)]  # [nB, nA, a, b] → [A, B]


def _forward(plan, a, b):
    return _interact(plan, a, b), (a, b)


def _backward(plan, saved, grads):
    a, b = saved
    cut_a, cut_b = _cuts(a[1], b[1])
    a_blocks, b_blocks = jax.tree.map(cut_a, a), jax.tree.map(cut_b, b)
    grads = [cut_b(cut_a(x), 2) for x in grads]  # [nB, nA, a, b]
    a_turned = tuple(jnp.transpose(x, (0, 3, 1, 2)) for x in a_blocks[0])  # [nA, D, a, I]
    zeros = functools.partial(jax.tree.map, lambda x: jnp.zeros(x.shape, _exact(x)))

    def beside(a_sum, block):
        b, grads = block
        b = _turned(b)

        def step(b_sum, block):
            a_part, b_part = _pulled(plan, *block, b)
            return jax.tree.map(jnp.add, b_sum, b_part), a_part

        b_sum, a_part = jax.lax.scan(step, zeros((b[0], b[2])), (a_blocks, a_turned, grads))
        return jax.tree.map(jnp.add, a_sum, a_part), b_sum

    a_sum, b_sum = jax.lax.scan(beside, zeros(a_blocks[:2]), (b_blocks, grads))
    b_sum = jax.tree.map(lambda x: jnp.swapaxes(x, 1, x.ndim - 1), b_sum)  # [nB, (D,) J, b] → [nB, b, J(, D)]
    back = lambda cut, sums, side: (*jax.tree.map(lambda x, y: cut.join(x).astype(y.dtype), sums, side[:2]), None)
    return back(cut_a, a_sum, a), back(cut_b, b_sum, b)


_interact.defvjp(_forward, _backward)


def _scores(plan: _Plan, a: tuple, b: tuple) -> list[Array]:
    """`[a, b]` for every space: one block, `b` from `_turned`."""
    (_, w, a_mask), (_, _, u, b_mask) = a, b
    products, found = _products(a, b), []
    for space in plan.spaces:
        x, _ = _linked(space, products)
        of_a, _, _ = _along(plan, x, b_mask[None, None], 2)  # [a, i, b]
        of_b, _, _ = _along(plan, x, a_mask[:, :, None, None], 1)  # [a, j, b]
        found.append(0.5 * (jnp.sum(w[:, :, None] * of_a, axis=1) + jnp.sum(u * of_b, axis=1)))
    return found


def _pulled(plan: _Plan, a: tuple, turned_a: tuple, grads: list[Array], b: tuple) -> tuple[tuple, tuple]:
    """Gradients of tokens and weights of both sides, of one block; `grads` `[a, b]` for every space.

    With p the softmax along f, the slope of Σ_f S_f p_f by S_f is p_f (1 + λ (S_f - Σ S p)); p_f if p is the maximum's.
    """
    (_, w, a_mask), (_, b_tokens, u, b_mask) = a, b
    products = _products(a, b)
    d_products, d_w, d_u = [0.0] * len(products), 0.0, 0.0
    for space, grad in zip(plan.spaces, grads, strict=True):
        x, slope = _linked(space, products)
        half = 0.5 * grad[:, None]  # [a, 1, b]
        of_a, p, total_p = _along(plan, x, b_mask[None, None], 2)
        of_b, q, total_q = _along(plan, x, a_mask[:, :, None, None], 1)
        d_w += jnp.sum(half * of_a, axis=2)  # [a, i]
        d_u += jnp.sum(half * of_b, axis=0)  # [j, b]
        p = (half * w[:, :, None] / total_p)[:, :, None] * p
        q = (half * u / total_q)[:, None] * q
        if plan.sharpness is not None:
            p = p * (1 + plan.sharpness * (x - of_a[:, :, None]))
            q = q * (1 + plan.sharpness * (x - of_b[:, None]))
        d_x = (p + q) * slope  # [a, i, j, b]
        for k in space.products:
            d_products[k] += d_x
    d_a, d_b = [], []
    for d, x, y in zip(d_products, turned_a, b_tokens, strict=True):
        d = d.astype(x.dtype)
        d_a.append(_einsum("aijr,jrd->aid", d, y))
        d_b.append(_einsum("dai,aijr->djr", x, d))
    return (tuple(d_a), d_w), (tuple(d_b), d_u)


def _products(a: tuple, b: tuple) -> list[Array]:
    """Dot products of all tokens, `[a, i, j, b]` each."""
    return [_einsum("aid,djr->aijr", x, y) for x, y in zip(a[0], b[0], strict=True)]


def _linked(space: Space, products: list[Array]) -> tuple[Array, Array | float]:
    """S of a space, and its slope by each of the products that it adds up."""
    x = functools.reduce(jnp.add, [products[k] for k in space.products])
    return kernel(x, space.kernels, space.scale) if space.kernels else (x, 1.0)


def _along(plan: _Plan, x: Array, mask: Array, axis: int) -> tuple[Array, Array, Array]:
    """(Σ x p, p not yet divided by its sum, its sum) along one axis of tokens, of which `mask` has the real ones."""
    logit = (x if plan.sharpness is None else plan.sharpness * x) + jnp.where(mask, 0.0, NEG)
    top = jnp.max(logit, axis=axis, keepdims=True)
    p = (logit >= top).astype(x.dtype) if plan.sharpness is None else jnp.exp(logit - top)
    total = jnp.sum(p, axis=axis)
    return jnp.sum(x * p, axis=axis) / total, p, total


def _turned(b: tuple) -> tuple:
    """A block of the second side: its tokens as `[D, J, b]` and as `[J, b, D]`, weights and mask `[J, b]`."""
    tokens, weights, mask = b
    turn = lambda order: tuple(jnp.transpose(x, order) for x in tokens)
    return turn((2, 1, 0)), turn((1, 0, 2)), weights.T, mask.T


def _exact(x: Array):
    return jnp.promote_types(x.dtype, jnp.float32)


def _einsum(axes: str, x: Array, y: Array) -> Array:
    """Rows of the second side are called r: axes that are summed go in alphabetical order, and so lie in memory."""
    precision = None if x.dtype.itemsize == 2 else jax.lax.Precision.HIGHEST
    return jnp.einsum(axes, x, y, preferred_element_type=_exact(x), precision=precision)


@dataclasses.dataclass(frozen=True)
class _Cut:
    """Rows in `count` blocks of `share` rows of every device each, with rows of zeros at each device's end."""

    devices: int
    rows: int
    count: int
    share: int

    def __call__(self, x: Array, axis: int = 0) -> Array:
        """`[…, rows, …]` → `[count, …, devices · share, …]`."""
        x = jnp.moveaxis(x, axis, 0)
        x = x.reshape(self.devices, self.rows // self.devices, *x.shape[1:])
        spare = self.count * self.share - x.shape[1]
        x = jnp.pad(x, [(0, 0), (0, spare)] + [(0, 0)] * (x.ndim - 2))
        x = x.reshape(self.devices, self.count, self.share, *x.shape[2:]).swapaxes(0, 1)
        return jnp.moveaxis(x.reshape(self.count, self.devices * self.share, *x.shape[3:]), 1, axis + 1)

    def join(self, x: Array, axis: int = 0) -> Array:
        """The way back."""
        x = jnp.moveaxis(x, axis + 1, 1)
        x = x.reshape(self.count, self.devices, self.share, *x.shape[2:]).swapaxes(0, 1)
        x = x.reshape(self.devices, self.count * self.share, *x.shape[3:])[:, : self.rows // self.devices]
        return jnp.moveaxis(x.reshape(self.rows, *x.shape[2:]), 0, axis)


def _cuts(a: Array, b: Array) -> tuple[_Cut, _Cut]:
    """How to cut sides of `[A, I]` and `[B, J]`: blocks of about as many tokens on either side."""
    pairs = PAIRS.get(jax.default_backend(), PAIRS_ELSEWHERE)
    mesh = jax.sharding.get_abstract_mesh()
    devices = 1 if mesh.empty else mesh.shape.get("data", 1)

    def cut(rows, most):
        over = devices if rows % devices == 0 else 1
        own, most = rows // over, max(1, most)
        share = max(n for n in range(1, min(most, own) + 1) if own % n == 0)
        if 2 * share < min(most, own):  # no good divisor: fill up
            share = -(-own // -(-own // most))
        return _Cut(over, rows, -(-own // share), share)

    second = cut(len(b), round(pairs**0.5 / b.shape[1]))
    # A device has its share of one of the sides, and all of the block's rows of the other.
    return cut(len(a), pairs // (second.share * b.shape[1] * a.shape[1] * devices)), second
