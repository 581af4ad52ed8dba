"""The words of the house: dimension letters, what encoders return, the arrays of a batch.

Dimension letters, never reused: B pairs of a batch · V visuals · T texts · Q queries · C candidates · N items of an
index · F frames · R regions · L text tokens · S set elements (regions or tokens) · D embedding · K facts · H W pixels.

Words: visual / text; `v2t` = the query is visual; scores (a model's similarities); relevance (graded, exactly 1.0 on a
true pair); positive (boolean); `where` (validity in functions, as in jnp); `mask` (validity in data).

Batch keys (leading axis B; `batching.check` refuses any other):

| key | dtype, shape | meaning |
|---|---|---|
| `visual` | float `[B, R, D]`, `[B, F, D]`, `[B, F, R, D]`; uint8 `[B, F, H, W, 3]` | features; frames |
| `visual_mask` | bool `[B, R]`, `[B, F]` or `[B, F, R]` | real elements |
| `boxes` | float32 `[B, R, 4]` or `[B, F, R, 4]`, optional | x0, y0, x1, y1 as fractions of the picture |
| `text`, `text_mask` | int32 `[B, L]`, bool `[B, L]` | tokens |
| `visual_id`, `text_id` | int32 `[B]` | identity; rows of one `visual_id` are both positives |
| `visual_facts`, `text_facts` | bool `[B, K]`, optional | what is true in the visual / said by the text |
| `caption_vec` | float `[B, E]`, optional | the text's sentence vector: of unit length, or zero |
| `visual_caption_vecs` | float `[B, K, E]`, optional | those of the visual's own texts; the first again if fewer |
| `valid` | bool `[B]` | False = padding row |
"""

import flax.struct
import jax


@flax.struct.dataclass
class Encoded:
    """What every encoder returns. All leaves share the leading axis N, so it is sliced and sharded by `jax.tree.map`.

    Attributes:
        pooled: `[N, D]` float32, L2-normalised.
        tokens: `[N, S, D]` local embeddings, where the similarity needs them.
        mask: `[N, S]` bool, the real tokens.
        extra: more per-item arrays by name.
    """

    pooled: jax.Array
    tokens: jax.Array | None = None
    mask: jax.Array | None = None
    extra: dict[str, jax.Array] = flax.struct.field(default_factory=dict)
