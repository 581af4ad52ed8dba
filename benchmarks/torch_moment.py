"""QD-DETR (Moon et al., CVPR 2023) and its set loss in PyTorch, written by us in the form of the official code.

For `moment_step.py` to compare with. As the official code does: `nn.MultiheadAttention`, DAB-DETR's decoder, the whole
transformer a second time for the negative pairs, matching by SciPy on the host, one sample after the other, losses of
what the pairs index, a loop over the ranks of saliency. Parameters have the official names (`state_dict`). Left out is
the official T2V `attn_mask`, which applies rows of other samples' masks. `lean=True` gives the same numbers with what
eager PyTorch allows: attention that keeps no weights, and no decoder on the negative pairs, where nothing reads it.

Letters: B samples, F clips, L words, M queries, D hidden width. `padding` is True where nothing is, as torch has it.
"""

import math

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

WEIGHTS = {"loss_span": 10.0, "loss_giou": 1.0, "loss_label": 4.0, "loss_saliency": 1.0}
PERIOD, EPSILON, RANKS = 10000.0, 1e-3, 12


class MLP(nn.Module):
    """Linear maps with ReLU between them."""

    def __init__(self, width: int, out: int, layers: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, out if i == layers - 1 else width) for i in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)


class Projection(nn.Module):
    """Norm, dropout, linear map, ReLU if asked for."""

    def __init__(self, width: int, out: int, dropout: float, relu: bool):
        super().__init__()
        self.LayerNorm, self.relu = nn.LayerNorm(width), relu
        self.net = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, out))

    def forward(self, x: Tensor) -> Tensor:
        x = self.net(self.LayerNorm(x))
        return F.relu(x, inplace=True) if self.relu else x


class WordPositions(nn.Module):
    """The learned positions of words: the official model has their parameters and does not use them by default."""

    def __init__(self, words: int, width: int):
        super().__init__()
        self.position_embeddings, self.LayerNorm = nn.Embedding(words, width), nn.LayerNorm(width)


class Attention(nn.Module):
    """Attention on q, k, v that were projected already, and the output map. q and k may be wider than v."""

    def __init__(self, width: int, heads: int, dropout: float, lean: bool):
        super().__init__()
        self.out_proj, self.heads, self.dropout, self.lean = nn.Linear(width, width), heads, dropout, lean

    def forward(self, q: Tensor, k: Tensor, v: Tensor, padding: Tensor | None = None) -> Tensor:
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        hidden = None if padding is None else padding[:, None, None, :]
        dropout = self.dropout if self.training else 0.0
        if self.lean:
            x = F.scaled_dot_product_attention(q, k, v, None if hidden is None else ~hidden, dropout)
        else:
            scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
            scores = scores if hidden is None else scores.masked_fill(hidden, -torch.inf)
            x = F.dropout(scores.softmax(-1), dropout) @ v
        return self.out_proj(x.transpose(1, 2).flatten(2))


class EncoderLayer(nn.Module):
    """Post-norm self-attention and feed-forward net with a learned PReLU."""

    def __init__(self, width: int, heads: int, wide: int, dropout: float, lean: bool):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(width, wide), nn.Linear(wide, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout, self.dropout1, self.dropout2 = (nn.Dropout(dropout) for _ in range(3))
        self.activation, self.lean = nn.PReLU(), lean

    def attend(self, q: Tensor, k: Tensor, v: Tensor, padding: Tensor) -> Tensor:
        return self.dropout1(self.self_attn(q, k, v, key_padding_mask=padding, need_weights=not self.lean)[0])

    def widen(self, x: Tensor) -> Tensor:
        return self.dropout2(self.linear2(self.dropout(self.activation(self.linear1(x)))))

    def forward(self, x: Tensor, position: Tensor, padding: Tensor) -> Tensor:
        placed = x + position
        x = self.norm1(x + self.attend(placed, placed, x, padding))
        return self.norm2(x + self.widen(x))


class TextToVideoLayer(EncoderLayer):
    """Clips attend to words; the second residual is that before the first norm."""

    def forward(self, x: Tensor, position: Tensor, words: Tensor, padding: Tensor) -> Tensor:
        x = x + self.attend(x + position, words, words, padding)
        return self.norm2(x + self.widen(self.norm1(x)))


class DecoderLayer(nn.Module):
    """DAB-DETR's: content and position projected apart; in cross-attention side by side in every head."""

    def __init__(self, width: int, heads: int, wide: int, dropout: float, first: bool, lean: bool):
        super().__init__()
        names = "sa_qcontent sa_qpos sa_kcontent sa_kpos sa_v ca_qcontent ca_kcontent ca_kpos ca_v ca_qpos_sine"
        for name in [*names.split(), *(["ca_qpos"] if first else [])]:
            self.add_module(f"{name}_proj", nn.Linear(width, width))
        self.self_attn, self.cross_attn = (Attention(width, heads, dropout, lean) for _ in range(2))
        self.linear1, self.linear2 = nn.Linear(width, wide), nn.Linear(wide, width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.dropout, self.dropout1, self.dropout2, self.dropout3 = (nn.Dropout(dropout) for _ in range(4))
        self.activation, self.heads, self.first = nn.PReLU(), heads, first

    def forward(self, x: Tensor, memory: Tensor, padding: Tensor, position: Tensor, query: Tensor, sine: Tensor):
        q = self.sa_qcontent_proj(x) + self.sa_qpos_proj(query)
        k = self.sa_kcontent_proj(x) + self.sa_kpos_proj(query)
        x = self.norm1(x + self.dropout1(self.self_attn(q, k, self.sa_v_proj(x))))
        q, k, place = self.ca_qcontent_proj(x), self.ca_kcontent_proj(memory), self.ca_kpos_proj(position)
        if self.first:
            q, k = q + self.ca_qpos_proj(query), k + place
        beside = lambda a, b: torch.cat([y.unflatten(-1, (self.heads, -1)) for y in (a, b)], -1).flatten(2)
        q, k = beside(q, self.ca_qpos_sine_proj(sine)), beside(k, place)
        x = self.norm2(x + self.dropout2(self.cross_attn(q, k, self.ca_v_proj(memory), padding)))
        return self.norm3(x + self.dropout3(self.linear2(self.dropout(self.activation(self.linear1(x))))))


class Decoder(nn.Module):
    """Layers that refine anchors (centre, width)."""

    def __init__(self, width: int, heads: int, wide: int, layers: int, dropout: float, lean: bool):
        super().__init__()
        layer = lambda i: DecoderLayer(width, heads, wide, dropout, i == 0, lean)
        self.layers, self.norm = nn.ModuleList(layer(i) for i in range(layers)), nn.LayerNorm(width)
        self.query_scale, self.ref_point_head = MLP(width, width, 2), MLP(width, width, 2)
        self.bbox_embed, self.ref_anchor_head = MLP(width, 2, 3), MLP(width, 1, 2)

    def forward(self, memory: Tensor, padding: Tensor, position: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
        """Normed outputs `[K, B, M, D]` and the anchor before each layer `[K, B, M, 2]`."""
        anchor = anchors.sigmoid().expand(len(memory), -1, -1)
        x, hidden, references = memory.new_zeros(*anchor.shape[:2], memory.shape[-1]), [], [anchor]
        for i, layer in enumerate(self.layers):
            sine = sines(anchor, memory.shape[-1] // 2)
            query, scale = self.ref_point_head(sine), 1 if i == 0 else self.query_scale(x)
            sine = sine * scale * (self.ref_anchor_head(x).sigmoid() / anchor[..., 1:])
            x = layer(x, memory, padding, position, query, sine)
            hidden.append(self.norm(x))
            if i + 1 < len(self.layers):
                references.append((self.bbox_embed(x) + inverse_sigmoid(anchor)).sigmoid())
                anchor = references[-1].detach()
        return torch.stack(hidden), torch.stack(references)


class Transformer(nn.Module):
    """T2V layers, encoder with a global token in front, decoder."""

    def __init__(self, width: int, heads: int, wide: int, layers: tuple[int, int, int], dropout: float, lean: bool):
        super().__init__()
        sizes = width, heads, wide, dropout, lean
        self.t2v_encoder, self.encoder = nn.Module(), nn.Module()
        self.t2v_encoder.layers = nn.ModuleList(TextToVideoLayer(*sizes) for _ in range(layers[0]))
        self.encoder.layers = nn.ModuleList(EncoderLayer(*sizes) for _ in range(layers[1]))
        self.decoder = Decoder(width, heads, wide, layers[2], dropout, lean)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for parameter in self.decoder.bbox_embed.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, clips, clip_padding, words, word_padding, position, token, token_position, anchors, decode=True):
        """Decoder outputs and anchors (None without `decode`), clips `[B, F, D]` and global token `[B, D]`."""
        for layer in self.t2v_encoder.layers:
            clips = layer(clips, position, words, word_padding)
        front = lambda a, b: torch.cat([a.expand(len(b), 1, -1), b], 1)
        x, places = front(token, clips), front(token_position, position)
        padding = F.pad(clip_padding, (1, 0), value=False)
        for layer in self.encoder.layers:
            x = layer(x, places, padding)
        memory = x[:, 1:]
        found = self.decoder(memory, clip_padding, position, anchors) if decode else (None, None)
        return *found, memory, x[:, 0]


class QDDETR(nn.Module):
    """The model; `layers` = T2V, encoder, decoder."""

    def __init__(
        self, visual_dim=2818, text_dim=512, width=256, heads=8, wide=1024, queries=10, layers=(2, 2, 2), dropout=0.1,
        input_dropout=0.5, words=32, lean=False,
    ):  # fmt: skip
        super().__init__()
        self.transformer, self.lean = Transformer(width, heads, wide, layers, dropout, lean), lean
        self.txt_position_embed, self.query_embed = WordPositions(words, width), nn.Embedding(queries, 2)
        both = lambda dim: nn.Sequential(
            Projection(dim, width, input_dropout, True), Projection(width, width, input_dropout, False)
        )
        self.input_txt_proj, self.input_vid_proj = both(text_dim), both(visual_dim)
        self.span_embed, self.class_embed = MLP(width, 2, 3), nn.Linear(width, 2)
        self.saliency_proj1, self.saliency_proj2 = nn.Linear(width, width), nn.Linear(width, width)
        self.global_rep_token, self.global_rep_pos = (nn.Parameter(torch.randn(width)) for _ in range(2))

    def forward(self, src_vid: Tensor, src_vid_mask: Tensor, src_txt: Tensor, src_txt_mask: Tensor) -> dict:
        """Features `[B, F, ·]`, `[B, L, ·]`, masks (1 = real) → spans, logits and saliency; other layers below."""
        clips, words = self.input_vid_proj(src_vid), self.input_txt_proj(src_txt)
        position, clip_padding, word_padding = places(src_vid_mask, clips), src_vid_mask == 0, src_txt_mask == 0
        rest = position, self.global_rep_token, self.global_rep_pos, self.query_embed.weight
        hidden, anchors, memory, token = self.transformer(clips, clip_padding, words, word_padding, *rest)
        rolled = words.roll(-1, 0), word_padding.roll(-1, 0)
        _, _, *negative = self.transformer(clips, clip_padding, *rolled, *rest, decode=not self.lean)
        logits, spans = self.class_embed(hidden), (self.span_embed(hidden) + inverse_sigmoid(anchors)).sigmoid()
        layers = [{"pred_logits": a, "pred_spans": b} for a, b in zip(logits, spans, strict=True)]
        found = {"saliency_scores": self.saliency(memory, token), "saliency_scores_neg": self.saliency(*negative)}
        return layers[-1] | found | {"video_mask": src_vid_mask, "aux_outputs": layers[:-1]}

    def saliency(self, memory: Tensor, token: Tensor) -> Tensor:
        products = self.saliency_proj1(memory) * self.saliency_proj2(token).unsqueeze(1)
        return products.sum(-1) / math.sqrt(memory.shape[-1])


def waves(x: Tensor, width: int) -> Tensor:
    """`[…]` → `[…, width]`: sines and cosines in turns."""
    rate = PERIOD ** (2 * torch.arange(width, device=x.device).div(2, rounding_mode="floor") / width)
    x = x[..., None] / rate
    return torch.stack([x[..., 0::2].sin(), x[..., 1::2].cos()], -1).flatten(-2)


def places(mask: Tensor, like: Tensor) -> Tensor:
    """Position code `[B, F, D]` of clips, from 0 to 2π over the real ones."""
    x = mask.cumsum(1, dtype=like.dtype)
    return waves(x / (x[:, -1:] + 1e-6) * 2 * math.pi, like.shape[-1])


def sines(anchor: Tensor, width: int) -> Tensor:
    """Codes of centre and width, side by side `[B, M, 2 · width]`."""
    return torch.cat([waves(anchor[..., i] * 2 * math.pi, width) for i in (0, 1)], -1)


def inverse_sigmoid(x: Tensor) -> Tensor:
    x = x.clamp(0, 1)
    return (x.clamp(min=EPSILON) / (1 - x).clamp(min=EPSILON)).log()


def bounds(spans: Tensor) -> Tensor:
    """(centre, width) → (start, end)."""
    return torch.stack([spans[..., 0] - spans[..., 1] / 2, spans[..., 0] + spans[..., 1] / 2], -1)


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU `[N, M]` of all pairs of (start, end)."""
    left, right = torch.max(a[:, None, 0], b[:, 0]), torch.min(a[:, None, 1], b[:, 1])
    inter = (right - left).clamp(min=0)
    union = (a[:, 1] - a[:, 0])[:, None] + (b[:, 1] - b[:, 0]) - inter
    hull = torch.max(a[:, None, 1], b[:, 1]) - torch.min(a[:, None, 0], b[:, 0])
    return inter / union - (hull - union) / hull


@torch.no_grad()
def match(outputs: dict, targets: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """For every sample the queries and the targets `[G, 2]` that belong together, by SciPy on the host."""
    spans, wanted = outputs["pred_spans"].flatten(0, 1), torch.cat(targets)
    foreground = outputs["pred_logits"].flatten(0, 1).softmax(-1)[:, :1]
    cost = 10 * torch.cdist(spans, wanted, p=1) - giou(bounds(spans), bounds(wanted)) - 4 * foreground
    parts = cost.view(len(targets), -1, len(wanted)).cpu().split([len(t) for t in targets], -1)
    pairs = [linear_sum_assignment(part[i]) for i, part in enumerate(parts)]
    return [(torch.as_tensor(i), torch.as_tensor(j)) for i, j in pairs]


def span_losses(outputs: dict, targets: list[Tensor]) -> dict[str, Tensor]:
    """Of one decoder layer: L1 and gIoU of the matched, cross-entropy of all queries."""
    pairs = match(outputs, targets)
    index = torch.cat([torch.full_like(i, row) for row, (i, _) in enumerate(pairs)]), torch.cat([i for i, _ in pairs])
    spans = outputs["pred_spans"][index]
    wanted = torch.cat([t[j] for t, (_, j) in zip(targets, pairs, strict=True)])
    logits = outputs["pred_logits"]
    classes = torch.ones(logits.shape[:2], dtype=torch.int64, device=logits.device)
    classes[index] = 0
    entropy = F.cross_entropy(logits.transpose(1, 2), classes, logits.new_tensor([1.0, 0.1]), reduction="none")
    overlap = giou(bounds(spans), bounds(wanted)).diag()
    return {"loss_span": F.l1_loss(spans, wanted), "loss_giou": 1 - overlap.mean(), "loss_label": entropy.mean()}


def saliency_loss(outputs: dict, targets: dict, margin: float = 0.2, temperature: float = 0.5) -> Tensor:
    """Margin between pairs of clips, contrast of the clips above each rank, negatives towards zero."""
    scores, negative, mask = (outputs[n] for n in ("saliency_scores", "saliency_scores_neg", "video_mask"))
    away = (F.softplus(negative) * mask).sum(1).mean()
    both, mask = torch.cat([scores, negative], 1), mask.repeat(1, 2)
    both = mask * both + (1 - mask) * -1000.0
    labels = torch.cat([targets["saliency_all_labels"], torch.zeros_like(negative)], 1)
    contrast = 0.0
    for rank in range(1, RANKS):
        above = labels >= rank
        if not above.any():
            continue
        logits = both / temperature
        logits = logits - logits.max(1, keepdim=True)[0]
        log_share = logits - (logits.exp().sum(1, keepdim=True) + 1e-6).log()
        each = (above * log_share * mask).sum(1) / (above.sum(1) + 1e-6)
        contrast = contrast - (each * above.any(1)).mean()
    high, low = (scores.gather(1, targets[f"saliency_{n}_labels"]) for n in ("pos", "neg"))
    return 2 * (margin + low - high).clamp(min=0).mean() + contrast / RANKS + away


def losses(outputs: dict, targets: dict) -> dict[str, Tensor]:
    """By the official names; `targets` has `spans`, a list of `[G, 2]` (centre, width), and the saliency labels."""
    found = span_losses(outputs, targets["spans"]) | {"loss_saliency": saliency_loss(outputs, targets)}
    for i, layer in enumerate(outputs["aux_outputs"]):
        found |= {f"{name}_{i}": value for name, value in span_losses(layer, targets["spans"]).items()}
    return found


def total(found: dict[str, Tensor], weights: dict[str, float] = WEIGHTS) -> Tensor:
    """Their weighted sum; an auxiliary layer's weigh as much as the last one's."""
    return sum(value * weights[name.rstrip("_0123456789")] for name, value in found.items())
