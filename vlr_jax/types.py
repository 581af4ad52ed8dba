"""The words of the house: dimension letters, what encoders return, the arrays of a batch.

Dimension letters, never reused: B pairs of a batch · V visuals · T texts · Q queries · C candidates · N items of an
index · F frames or clips · R regions · L text tokens · S set elements (regions or tokens) · D embedding · K facts ·
M predicted moments · G true moments · P pairs of clips · H W pixels.

Words: visual / text; `v2t` = the query is visual; scores (a model's similarities); relevance (graded, exactly 1.0 on a
true pair); positive (boolean); `where` (validity in functions, as in jnp); `mask` (validity in data).

Batch keys (leading axis B; `batching.check` refuses any other):

| key | dtype, shape | meaning |
|---|---|---|
| `visual` | float `[B, R, D]`, `[B, F, D]`, `[B, F, R, D]`; uint8 `[B, F, H, W, 3]` | features; frames |
| `visual_mask` | bool `[B, R]`, `[B, F]` or `[B, F, R]` | real elements |
| `boxes` | float32 `[B, R, 4]` or `[B, F, R, 4]`, optional | x0, y0, x1, y1 as fractions of the picture |
| `text`, `text_mask` | int32 `[B, L]` (or float `[B, L, D]`), bool `[B, L]` | tokens (or their precomputed states) |
| `visual_id`, `text_id` | int32 `[B]` | identity; rows of one `visual_id` are both positives |
| `visual_facts`, `text_facts` | bool `[B, K]`, optional | what is true in the visual / said by the text |
| `caption_vec` | float `[B, E]`, optional | the text's sentence vector: of unit length, or zero |
| `visual_caption_vecs` | float `[B, K, E]`, optional | those of the visual's own texts; the first again if fewer |
| `source_id` | int32 `[B]`, moments | the uncut source: two rows of one are not negatives of each other |
| `duration` | float32 `[B]`, moments | seconds that the clips cover: their number times their length |
| `spans`, `spans_mask` | float32 `[B, G, 2]`, bool `[B, G]`, optional | (start, end) as fractions of `duration` |
| `saliency` | float32 `[B, F]`, optional | how well each clip shows what the text says; 0 = not at all |
| `saliency_pairs` | int32 `[B, P, 2]`, optional | (better clip, worse clip); -1 = no pair |
| `valid` | bool `[B]` | False = padding row |

`tasks/moment.py` adds `negative_where`, bool `[B]`: for which rows the next row's text is a wrong one.
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


@flax.struct.dataclass
class Moments:
    """What a moment model returns.

    Attributes:
        spans: `[K, B, M, 2]` float32 (centre, width) as fractions of the duration, unclipped; of K decoder layers, the
            last of which is the answer.
        logits: `[K, B, M, 2]`; of each moment that it is one (index 0), or none.
        saliency: `[B, F]`, of any scale.
        saliency_negative: `[B, F]`, of the same clips beside the next row's text; None where a model has no use for it.
        scores: `{"sim": [B, B]}` of true moments (rows) and texts, for ranking terms; only in training, and not of all.
        regularisers: name → scalar.
        extra: more per-row arrays by name, for reports.
    """

    spans: jax.Array
    logits: jax.Array
    saliency: jax.Array
    saliency_negative: jax.Array | None = None
    scores: dict[str, jax.Array] = flax.struct.field(default_factory=dict)
    regularisers: dict[str, jax.Array] = flax.struct.field(default_factory=dict)
    extra: dict[str, jax.Array] = flax.struct.field(default_factory=dict)
