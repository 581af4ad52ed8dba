"""Decoders of moments: learned queries that read a memory of clips (Moment-DETR's), or anchors on it (QD-DETR's).

The second is the one of DAB-DETR (Liu et al., ICLR 2022) on a timeline: every query is an anchor (centre, width) whose
position code takes part in the attention, and which each layer moves. Both give the normalised tokens after each layer,
because each is answered from in training.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from vlr_jax.layers import detr
from vlr_jax.layers.detr import XAVIER, ZEROS, Attention, FeedForward
from vlr_jax.layers.drop import Dropout
from vlr_jax.layers.product import Dense
from vlr_jax.layers.transformer import norm


class Decoder(nn.Module):
    """Moment-DETR's: self-attention of the queries, attention to the memory, feed-forward; sums are normalised.

    Attributes:
        layers: K. queries: M. heads, hidden, dropout: as `EncoderLayer`.
        pre_norm: normalise what enters a part, not the sum behind it.
        dtype: of the inputs of the matrix products.
    """

    layers: int
    queries: int
    heads: int
    hidden: int
    dropout: float = 0.1
    pre_norm: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, memory: Array, position: Array, mask: Array, *, train: bool) -> Array:
        """`memory`, `position` `[B, S, D]`, bool `mask [B, S]` → `[K, B, M, D]`."""
        shape = (self.queries, memory.shape[-1])
        queries = self.param("queries", nn.initializers.normal(1.0), shape)
        x, last, kept = jnp.zeros((len(memory), *shape), jnp.float32), norm(name="norm"), []
        for i in range(self.layers):
            fields = (self.heads, self.hidden, self.dropout, self.pre_norm, self.dtype)
            x = _DecoderLayer(*fields, name=f"layer_{i}")(x, queries, memory, position, mask, train=train)
            kept.append(last(x))
        return jnp.stack(kept)


class _DecoderLayer(nn.Module):
    heads: int
    hidden: int
    dropout: float
    pre_norm: bool
    dtype: Any

    @nn.compact
    def __call__(self, x, queries, memory, position, mask, *, train: bool):
        attention = lambda name: Attention(self.heads, self.dropout, self.dtype, name=name)
        drop = Dropout(self.dropout, deterministic=not train)
        before, after = detr.norms(self.pre_norm, 3)
        y = before[0](x)
        x = after[0](x + drop(attention("self")(y + queries, y + queries, y, None, train=train)))
        y = before[1](x) + queries
        x = after[1](x + drop(attention("cross")(y, memory + position, memory, mask, train=train)))
        forward = FeedForward(self.hidden, "relu", self.dropout, self.dtype, name="forward")
        return after[2](x + drop(forward(before[2](x), train=train)))


class AnchorDecoder(nn.Module):
    """QD-DETR's: queries are `anchors`, logits of (centre, width) as fractions of the clips.

    Attributes: as `Decoder`; activations are PReLU.
    """

    layers: int
    queries: int
    heads: int
    hidden: int
    dropout: float = 0.1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, memory: Array, position: Array, mask: Array, *, train: bool) -> tuple[Array, Array]:
        """`memory`, `position` `[B, S, D]`, bool `mask [B, S]` → tokens `[K, B, M, D]`, references `[K, B, M, 2]`.

        A layer's reference is the anchor that entered it, in (0, 1); gradients reach the layer before it through the
        reference, but not through the anchor.
        """
        width = memory.shape[-1]
        mlp = lambda out, layers, name, last=None: detr.MLP(width, out, layers, XAVIER, last, self.dtype, name=name)
        place, scale, modulate = mlp(width, 2, "place"), mlp(width, 2, "scale"), mlp(1, 2, "modulate")
        move = mlp(2, 3, "move", ZEROS)
        start = self.param("anchors", nn.initializers.normal(1.0), (self.queries, 2))
        anchor = jnp.broadcast_to(jax.nn.sigmoid(start), (len(memory), self.queries, 2))
        x, last = jnp.zeros((len(memory), self.queries, width), jnp.float32), norm(name="norm")
        kept, references = [], [anchor]
        for i in range(self.layers):
            code = anchor_code(anchor, width)  # [B, M, D]
            query = place(code)
            code = code * scale(x) if i else code
            code = code * (jax.nn.sigmoid(modulate(x)) / anchor[..., 1:])
            fields = (self.heads, self.hidden, i == 0, self.dropout, self.dtype)
            x = _AnchorLayer(*fields, name=f"layer_{i}")(x, query, code, memory, position, mask, train=train)
            if i + 1 < self.layers:
                references.append(jax.nn.sigmoid(move(x) + detr.inverse_sigmoid(anchor)))
                anchor = jax.lax.stop_gradient(references[-1])
            kept.append(last(x))
        return jnp.stack(kept), jnp.stack(references)


def anchor_code(anchor: Array, dim: int) -> Array:
    """The position code of anchors (centre, width): `[..., 2]` → `[..., dim]`, one half of it for each number."""
    return detr.waves(anchor, dim // 2).reshape(*anchor.shape[:-1], -1)


class _AnchorLayer(nn.Module):
    heads: int
    hidden: int
    first: bool  # then the queries' positions also enter the content of the attention to the memory
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x, query, code, memory, position, mask, *, train: bool):
        dense = lambda name, y: Dense(x.shape[-1], dtype=self.dtype, start=XAVIER, name=name)(y)
        out = lambda name, y: Dense(x.shape[-1], dtype=self.dtype, start=XAVIER, bias_start=ZEROS, name=name)(y)
        heads = lambda y: detr.split(y, self.heads, self.dtype)
        drop, weights = Dropout(self.dropout, deterministic=not train), detr.dropout(self.dropout, train)

        q = dense("self_query", x) + dense("self_query_position", query)
        k = dense("self_key", x) + dense("self_key_position", query)
        y = detr.attend(heads(q), heads(k), heads(dense("self_value", x)), None, drop=weights)
        x = norm(name="norm_1")(x + drop(out("self_out", y)))

        q, k, place = dense("cross_query", x), dense("cross_key", memory), dense("cross_key_position", position)
        if self.first:
            q, k = q + dense("cross_query_position", query), k + place
        # Content and position side by side in every head: its score is the sum of both products.
        q = jnp.concatenate([heads(q), heads(dense("cross_query_code", code))], axis=-1)
        k = jnp.concatenate([heads(k), heads(place)], axis=-1)
        y = detr.attend(q, k, heads(dense("cross_value", memory)), mask, drop=weights)
        x = norm(name="norm_2")(x + drop(out("cross_out", y)))

        forward = FeedForward(self.hidden, "prelu", self.dropout, self.dtype, name="forward")
        return norm(name="norm_3")(x + drop(forward(x, train=train)))
