"""What models of moments share: tokens of clips and words, QD-DETR's parts one by one, and what they answer.

`Inputs` → `Tokens` → layers → `Moments`. The parts of QD-DETR (Moon et al., CVPR 2023) are `Interaction` (words enter
the clips), `Overview` (a learned token that sees all clips), `Answer` (anchors, saliency); models put them together.
Rows of `Tokens` are the B pairs of a batch; where it has `negative_where`, each is followed by one of the same clips
beside the next row's words, as the official code has it, and all go through the layers as one batch (side by side, so
that no row changes its device).
"""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax import Array

from vlr_jax.layers.decoders import AnchorDecoder
from vlr_jax.layers.detr import MLP, EncoderLayer, Projection, TextToVideo, inverse_sigmoid, sine, tef
from vlr_jax.layers.drop import Dropout
from vlr_jax.layers.gru import GRU
from vlr_jax.layers.product import Dense, uniform
from vlr_jax.layers.transformer import norm


@flax.struct.dataclass
class Tokens:
    """A batch as tokens; N = B, or 2B where there are negative texts: row 2b is pair b, row 2b + 1 its negative one.

    Attributes:
        visual, position: `[N, F, D]`, and the position codes of the clips.
        visual_mask: bool `[N, F]`.
        text: `[N, L, D]`.
        text_position: `[N, L, D]`, or None where words have none.
        text_mask: bool `[N, L]`.
    """

    visual: Array
    position: Array
    visual_mask: Array
    text: Array
    text_position: Array | None
    text_mask: Array


def both(pairs: Array, negative: Array) -> Array:
    """`[B, ...]` twice → `[2B, ...]`, in turn."""
    return jnp.stack([pairs, negative], axis=1).reshape(-1, *pairs.shape[1:])


def apart(x: Array, rows: int) -> tuple[Array, Array | None]:
    """`[N, ...]` → those of the `rows` = B pairs `[B, ...]`, and of the negative ones, None if there are none."""
    if len(x) == rows:
        return x, None
    x = x.reshape(rows, 2, *x.shape[1:])
    return x[:, 0], x[:, 1]


class Inputs(nn.Module):
    """Features and words → `Tokens`. Modules are `visual`, `text`, and `words`, `gru`, `places`, `places_norm` if used.

    Attributes:
        visual_dim: width of the clips' features, without those two of their place.
        vocabulary: number of token ids, where texts are such.
        text_dim: width of the words' precomputed states; None = texts are token ids, which go through word vectors
            (`words`) and a GRU (`gru`), whose states stand for the words.
        dim: D.
        layers, dropout: of both projections; dropout also on word vectors.
        word_dim, gru_dim: of a word vector, of the GRU's state.
        text_positions: number of learned positions of words; 0 = words have none.
        tef: append the place of every clip to its features.
        dtype: of the inputs of the matrix products.

    Raises:
        ValueError: at `init` or `apply`: a batch whose visuals or texts are not what the fields say.
    """

    visual_dim: int
    vocabulary: int = 0
    text_dim: int | None = None
    dim: int = 256
    layers: int = 2
    dropout: float = 0.5
    word_dim: int = 300
    gru_dim: int = 256
    text_positions: int = 0
    tef: bool = True
    dtype: Any = jnp.float32

    def setup(self):
        if self.text_dim is None:
            if self.vocabulary < 1:
                raise ValueError("model.text_dim is None, so texts are token ids: model.vocabulary must be given")
            self.words = nn.Embed(self.vocabulary, self.word_dim, dtype=self.dtype, embedding_init=uniform(0.1))
            self.gru = GRU(self.gru_dim, dtype=self.dtype)
        fields = dict(layers=self.layers, dropout=self.dropout, dtype=self.dtype)
        self.visual, self.text = Projection(self.dim, **fields), Projection(self.dim, **fields)
        self.drop = Dropout(self.dropout)
        if self.text_positions:
            self.places = nn.Embed(self.text_positions, self.dim, embedding_init=nn.initializers.normal(1.0))
            self.places_norm = norm()

    def __call__(self, batch: dict[str, Array], *, train: bool = False) -> Tokens:
        """The batch's pairs, and in training, with `negative_where`, those with the next row's words.

        Words are encoded once, whatever they stand beside.
        """
        visual, mask = self.clips(batch, train=train)
        position = sine(mask, self.dim)
        text_mask = batch["text_mask"]
        text = self.sentences(batch["text"], text_mask, train=train)
        places = self._text_position(text, train)
        if train and "negative_where" in batch:
            visual, position, mask = (both(x, x) for x in (visual, position, mask))
            text, text_mask = (both(x, jnp.roll(x, -1, axis=0)) for x in (text, text_mask))
            places = None if places is None else both(places, jnp.roll(places, -1, axis=0))
        return Tokens(visual, position, mask, text, places, text_mask)

    def clips(self, batch: dict[str, Array], *, train: bool = False) -> tuple[Array, Array]:
        """`visual [B, F, visual_dim]` → tokens `[B, F, D]`, and the mask of real ones, bool `[B, F]`."""
        x, mask = batch["visual"], batch["visual_mask"]
        if x.ndim != 3 or x.shape[-1] != self.visual_dim:
            raise ValueError(f"model.visual_dim={self.visual_dim} wants visuals [B, F, {self.visual_dim}]: {x.shape}")
        x = x.astype(jnp.float32)
        if self.tef:
            x = jnp.concatenate([x, tef(mask)], axis=-1)
        return self.visual(x, train=train), mask

    def sentences(self, text: Array, mask: Array, *, train: bool = False) -> Array:
        """Token ids `[B, L]` or states `[B, L, text_dim]`, with bool `mask [B, L]` → tokens `[B, L, D]`."""
        if self.text_dim is None:
            if text.ndim != 2:
                raise ValueError(f"model.text_dim=None wants token ids [B, L]; got {text.dtype} {text.shape}")
            text = self.gru(self.drop(self.words(text), deterministic=not train), mask)[0]
        elif text.ndim != 3 or text.shape[-1] != self.text_dim:
            raise ValueError(f"model.text_dim={self.text_dim} wants states [B, L, {self.text_dim}]; got {text.shape}")
        return self.text(text.astype(jnp.float32), train=train)

    def _text_position(self, text: Array, train: bool) -> Array | None:
        if not self.text_positions:
            return None
        if text.shape[1] > self.text_positions:
            raise ValueError(f"a text has {text.shape[1]} tokens, but model.text_positions is {self.text_positions}")
        places = self.places_norm(text + self.places.embedding[: text.shape[1]])
        return self.drop(places, deterministic=not train)


def inputs_of(model: nn.Module) -> Inputs:
    """The `Inputs` of a model that has their fields, `projection_layers` and `input_dropout` among its own."""
    same = ("visual_dim", "vocabulary", "text_dim", "dim", "word_dim", "gru_dim", "text_positions", "tef", "dtype")
    fields = {name: getattr(model, name) for name in same}
    return Inputs(**fields, layers=model.projection_layers, dropout=model.input_dropout)


class Interaction(nn.Module):
    """QD-DETR's first encoder: `layers` times, the words enter the clips. Fields as `layers.detr.TextToVideo`'s."""

    layers: int
    heads: int
    hidden: int
    dropout: float = 0.1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Tokens, gate: Array | None = None, *, train: bool) -> Array:
        """Clips `[N, F, D]`; `gate [N, F]` multiplies what the words add to a clip in every layer, None = 1."""
        x = tokens.visual
        for i in range(self.layers):
            layer = TextToVideo(self.heads, self.hidden, "prelu", self.dropout, self.dtype, name=f"layer_{i}")
            texts = (tokens.text, tokens.text_mask, gate)
            x = layer(x, tokens.position, *texts, text_position=tokens.text_position, train=train)
        return x


class Overview(nn.Module):
    """QD-DETR's global token: a learned `token` and `position` before the clips."""

    @nn.compact
    def __call__(self, x: Array, position: Array, mask: Array) -> tuple[Array, Array, Array]:
        """`[N, F, D]`, `[N, F, D]`, bool `[N, F]` → the same with 1 + F in place of F."""
        first = lambda name: jnp.broadcast_to(
            self.param(name, nn.initializers.normal(1.0), x.shape[-1:]), (len(x), 1, x.shape[-1])
        )
        joined = lambda name, rest: jnp.concatenate([first(name), rest], axis=1)
        return joined("token", x), joined("position", position), jnp.pad(mask, ((0, 0), (1, 0)), constant_values=True)


class Encoder(nn.Module):
    """`layers.detr.EncoderLayer` some times; with `pre_norm` a normalisation (`norm`) at the end."""

    layers: int
    heads: int
    hidden: int
    activation: str
    dropout: float = 0.1
    pre_norm: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, position: Array, mask: Array, *, train: bool) -> Array:
        """`x`, `position` `[N, S, D]`, bool `mask [N, S]` → `[N, S, D]`."""
        fields = (self.heads, self.hidden, self.activation, self.dropout, self.pre_norm, self.dtype)
        for i in range(self.layers):
            x = EncoderLayer(*fields, name=f"layer_{i}")(x, position, mask, train=train)
        return norm(name="norm")(x) if self.pre_norm else x


class Heads(nn.Module):
    """Decoded tokens → spans and logits, by a linear map (`label`) and one of three layers (`span`)."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, references: Array | None = None) -> tuple[Array, Array]:
        """`x [K, B, M, D]` → (centre, width) in (0, 1) `[K, B, M, 2]`, logits `[K, B, M, 2]`, index 0 = a moment.

        Args:
            references: `[K, B, M, 2]` in (0, 1), from where the spans are measured.
        """
        moved = MLP(x.shape[-1], 2, 3, dtype=self.dtype, name="span")(x)
        moved = moved if references is None else moved + inverse_sigmoid(references)
        return jax.nn.sigmoid(moved), Dense(2, dtype=self.dtype, name="label")(x)


class Saliency(nn.Module):
    """QD-DETR's: the product of each clip (`clips`) with the token that sees all of them (`overview`), over √D."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, memory: Array, overview: Array) -> Array:
        """`memory [N, F, D]`, `overview [N, D]` → `[N, F]` float32."""
        width = memory.shape[-1]
        clips = Dense(width, dtype=self.dtype, name="clips")(memory)
        whole = Dense(width, dtype=self.dtype, name="overview")(overview)
        return jnp.sum(clips * whole[:, None, :], axis=-1) * width**-0.5


class Answer(nn.Module):
    """QD-DETR's decoder and heads: `decoder`, `heads`, `saliency`. Fields as `layers.decoders.AnchorDecoder`'s."""

    layers: int
    queries: int
    heads: int
    hidden: int
    dropout: float = 0.1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, memory: Array, overview: Array, position: Array, mask: Array, rows: int, *, train: bool
    ) -> dict[str, Array | None]:
        """Fields of `types.Moments`: spans, logits, saliency, saliency_negative.

        Args:
            memory, position: `[N, F, D]`. overview: `[N, D]`. mask: bool `[N, F]`.
            rows: B; moments are looked for in the pairs, negative ones are there for their saliency.
        """
        fields = (self.layers, self.queries, self.heads, self.hidden, self.dropout, self.dtype)
        decoder, heads = AnchorDecoder(*fields, name="decoder"), Heads(self.dtype, name="heads")
        spans, logits = heads(*decoder(*(apart(x, rows)[0] for x in (memory, position, mask)), train=train))
        saliency, negative = apart(Saliency(self.dtype, name="saliency")(memory, overview), rows)
        return dict(spans=spans, logits=logits, saliency=saliency, saliency_negative=negative)
