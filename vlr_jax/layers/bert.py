"""BERT's encoder (Devlin et al., NAACL 2019), with the parameters of the published models.

Post-norm transformer layers, exact GELU, learned positions. A retrieval text is one segment, so of the two segment
vectors only the first is a parameter. `pretrained/bert.py` reads the parameters from a Hugging Face folder.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from vlr_jax.layers.product import Dense

_normal = nn.initializers.normal(0.02)


class Bert(nn.Module):
    """Token ids → one vector a token; sizes default to BERT-base.

    Attributes:
        vocabulary: number of word pieces.
        dim: D, width of the vectors.
        layers, heads, hidden: number of layers, heads of each, width inside their feed-forward part.
        positions: longest text that there are position vectors for.
        eps: of the layer normalisations.
        dropout: on the embeddings and on what each half of a layer adds.
        attention_dropout: on the attention weights.
        dtype: of the inputs of the matrix products, and of the result; sums, softmax, normalisation and parameters are
            at least float32.

    Raises:
        ValueError: at `init` or `apply`, where heads do not divide dim, or a text is longer than `positions`.
    """

    vocabulary: int
    dim: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 3072
    positions: int = 512
    eps: float = 1e-12
    dropout: float = 0.1
    attention_dropout: float = 0.1
    dtype: Any = jnp.float32

    def setup(self):
        if self.dim % self.heads:
            raise ValueError(f"bert: {self.heads} heads can't share dim {self.dim}; dim must be a multiple of heads")
        self.words = nn.Embed(self.vocabulary, self.dim, embedding_init=_normal)
        self.places = self.param("places", _normal, (self.positions, self.dim))
        self.segment = self.param("segment", _normal, (self.dim,))
        self.norm = _norm(self.eps)
        self.drop = nn.Dropout(self.dropout)
        rates = self.dropout, self.attention_dropout
        self.layer = [Layer(self.heads, self.hidden, self.eps, *rates, dtype=self.dtype) for _ in range(self.layers)]

    def __call__(self, ids: Array, mask: Array, *, train: bool) -> Array:
        """`ids` int32 `[B, L]`, `mask` bool `[B, L]` → `[B, L, D]`; what stands behind the mask means nothing."""
        length = ids.shape[1]
        if length > self.positions:
            raise ValueError(f"bert: texts of {length} tokens, but only {self.positions} positions; lower text.length")
        x = self.norm(self.words(ids) + self.places[:length] + self.segment)
        x = self.drop(x.astype(self.dtype), deterministic=not train)
        for layer in self.layer:
            x = layer(x, mask, train=train)
        return x


class Layer(nn.Module):
    """Self-attention and a feed-forward part, each added to what came in and then normalised: `[B, L, D]` → same."""

    heads: int
    hidden: int
    eps: float
    dropout: float
    attention_dropout: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, mask: Array, *, train: bool) -> Array:
        dim, drop = x.shape[-1], nn.Dropout(self.dropout, deterministic=not train)
        dense = lambda size, name: Dense(
            size, dtype=self.dtype, start=_normal, bias_start=nn.initializers.zeros, name=name
        )
        # [B, L, heads, D / heads]
        split = lambda name: dense(dim, name)(x).astype(self.dtype).reshape(*x.shape[:2], self.heads, -1)
        weights = _attention(split("query"), split("key"), mask)
        weights = nn.Dropout(self.attention_dropout, deterministic=not train)(weights).astype(self.dtype)
        mixed = _product("bhqk,bkhd->bqhd", weights, split("value")).reshape(x.shape)
        x = _norm(self.eps, "mix_norm")(x + drop(dense(dim, "mix")(mixed))).astype(self.dtype)
        y = dense(dim, "narrow")(nn.gelu(dense(self.hidden, "widen")(x), approximate=False))
        return _norm(self.eps, "norm")(x + drop(y)).astype(self.dtype)


def _norm(eps: float, name: str | None = None) -> nn.LayerNorm:
    """In at least float32, whatever comes in; the variance from differences, which a large mean does not spoil."""
    return nn.LayerNorm(epsilon=eps, use_fast_variance=False, dtype=None, param_dtype=jnp.float32, name=name)


def _attention(query: Array, key: Array, mask: Array) -> Array:
    """Softmax over the real keys, `[B, heads, L, L]` in at least float32; finite where a text has no real token."""
    scores = _product("bqhd,bkhd->bhqk", query, key) * query.shape[-1] ** -0.5
    scores = jnp.where(mask[:, None, None, :], scores, jnp.finfo(scores.dtype).min)
    return jax.nn.softmax(scores, axis=-1)


def _product(axes: str, a: Array, b: Array) -> Array:
    """`jnp.einsum` of two arrays, with sums and result of at least float32."""
    return jnp.einsum(axes, a, b, preferred_element_type=jnp.promote_types(a.dtype, jnp.float32))
