"""CLIP4Clip and ProTA in PyTorch, as their codes' lineage writes them: functions of a dict of parameters of our names.

Written for comparison only: eager, whole token tensors, PyTorch's own attention, convolution, norms and losses. Weights
lie as PyTorch has them, `[out, in]`. Runs on a GPU too, there under autocast (`video_steps.py`).
"""

import torch
import torch.nn.functional as F

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HEAD = 64  # width of a head of the temporal transformer, where the width is a multiple of it
SIMILARITIES = ("low", "high", "probabilistic")


def parameters(tree: dict, device: str = "cpu", prefix: str = "") -> dict[str, torch.Tensor]:
    """A tree of arrays → `a/b` → a tensor that learns; the kernel of a linear map is turned to `[out, in]`."""
    found = {}
    for name, part in tree.items():
        if isinstance(part, dict):
            found |= parameters(part, device, f"{prefix}{name}/")
        else:
            part = torch.tensor(part).T.contiguous() if name == "kernel" else torch.tensor(part)
            found[prefix + name] = part.to(device).requires_grad_()
    return found


class Part:
    """The parameters below a name."""

    def __init__(self, everything: dict, name: str = ""):
        self.everything, self.name = everything, name

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.everything[self.name + name]

    def below(self, name: str) -> "Part":
        """Of the part `name` of it."""
        return Part(self.everything, f"{self.name}{name}/")

    def linear(self, name: str, x):
        """`[…, in]` → `[…, out]`, with a bias where there is one."""
        return F.linear(x, self[f"{name}/kernel"], self.everything.get(f"{self.name}{name}/bias"))

    def norm(self, name: str, x):
        """Layer normalisation."""
        return F.layer_norm(x, x.shape[-1:], self[f"{name}/scale"], self[f"{name}/bias"], 1e-5)


def transformer(p: Part, x, layers: int, heads: int, mask=None, causal=False):
    """Pre-norm blocks with QuickGELU; `mask` bool [N, S] of the keys."""
    split = lambda y: y.view(*x.shape[:2], heads, -1).transpose(1, 2)
    keys = None if mask is None else mask[:, None, None, :]
    for i in range(layers):
        b = p.below(f"block_{i}")
        y = b.norm("norm_1", x)
        q, k, v = (split(b.linear(name, y)) for name in ("query", "key", "value"))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=keys, is_causal=causal)
        x = x + b.linear("out", y.transpose(1, 2).reshape(x.shape))
        y = b.linear("widen", b.norm("norm_2", x))
        x = x + b.linear("narrow", y * torch.sigmoid(1.702 * y))
    return x


def image(p: Part, frames, sizes: dict):
    """uint8 [N, H, W, 3] → [N, D], the class token's."""
    mean, std = (torch.tensor(x, device=frames.device) for x in (MEAN, STD))
    x = (frames.float() / 255 - mean) / std
    kernel = p["patches/kernel"].view(-1, sizes["patch"], sizes["patch"], 3).permute(0, 3, 1, 2)
    x = F.conv2d(x.permute(0, 3, 1, 2), kernel, stride=sizes["patch"]).flatten(2).transpose(1, 2)
    x = torch.cat([p["class"].expand(len(x), 1, -1), x], 1) + p["places"]
    x = transformer(p.below("blocks"), p.norm("norm_in", x), sizes["vision_layers"], sizes["vision_heads"])
    return p.linear("project", p.norm("norm", x[:, 0]))


def text(p: Part, ids, mask, sizes: dict, tokens: bool):
    """[N, L] → [N, L, D] of all tokens if `tokens`, else [N, D] of the last valid one."""
    x = F.embedding(ids.long(), p["words/embedding"]) + p["places"][: ids.shape[1]]
    x = p.norm("norm", transformer(p.below("blocks"), x, sizes["text_layers"], sizes["text_heads"], causal=True))
    return p.linear("project", x if tokens else x[torch.arange(len(ids), device=x.device), mask.sum(1) - 1])


def frames_of(p: Part, batch: dict, sizes: dict):
    """[B, F, D]."""
    visual = batch["visual"]
    return image(p.below("clip").below("visual"), visual.flatten(0, 1), sizes).view(*visual.shape[:2], -1)


def contrast(scores, temperature, margin: float = 0.0):
    """Cross-entropy both ways; a positive of score s wins by `margin` · clip(1 - s, 0, 1) more."""
    z = scores
    if margin:
        z = z - torch.diag(margin * (1 - scores.diagonal()).clamp(0, 1).detach())
    z, own = z / temperature, torch.arange(len(z), device=z.device)
    return (F.cross_entropy(z, own) + F.cross_entropy(z.T, own)) / 2


def clip4clip(p: Part, batch: dict, sizes: dict):
    """The loss of meanP: mean of the normalised frames, cosine, InfoNCE at the learned temperature."""
    frames = F.normalize(frames_of(p, batch, sizes), dim=-1)
    sentence = text(p.below("clip").below("text"), batch["text"], batch["text_mask"], sizes, tokens=False)
    mask = batch["visual_mask"].unsqueeze(-1).float()
    video = F.normalize((frames * mask).sum(1) / mask.sum(1), dim=-1)
    return contrast(video @ F.normalize(sentence, dim=-1).T, p["clip/log_temperature"].exp())


def prota(p: Part, batch: dict, sizes: dict, layers: int, kernels: int = 5, margin: float = 0.2, beta: float = 1e-3):
    """The loss: adaptive contrastive on the mean of the three similarities, and KL to N(0, 1 / D)."""
    x = frames_of(p, batch, sizes)
    places, mask = p["temporal/positions"][: x.shape[1]], batch["visual_mask"]
    heads = x.shape[-1] // HEAD if x.shape[-1] % HEAD == 0 else 1
    x = x + transformer(p.below("temporal").below("blocks"), x + places, layers, heads, mask=mask)
    visual = tokens_of(p, "visual", x, mask)
    x = text(p.below("clip").below("text"), batch["text"], batch["text_mask"], sizes, tokens=True)
    words = tokens_of(p, "text", x, batch["text_mask"])
    scores = sum(similarities(visual, words, kernels=kernels).values()) / 3
    regulariser = (kl(visual) + kl(words)) / 2
    return contrast(scores, p["clip/log_temperature"].exp(), margin) + beta * regulariser


def tokens_of(p: Part, side: str, x, mask) -> dict:
    """Tokens, the same through a map of their own, their weights and log-variances."""
    weights, spread = p.below(f"{side}_weights"), p.below(f"{side}_spread")
    logits = weights.linear("out", weights.linear("hidden_0", x).relu()).squeeze(-1)
    return {
        "tokens": x,
        "high": p.below(f"{side}_high").linear("map", x),
        "weights": logits.masked_fill(~mask, -torch.inf).softmax(-1),
        "log_var": spread.linear("out", F.gelu(spread.linear("hidden", x))).clamp(-10.0, 5.0),
        "mask": mask,
    }


def similarities(visual: dict, words: dict, kernels: int = 5, sharpness: float = 100.0) -> dict:
    """`[V, T]` of each of SIMILARITIES, from whole [T, V, L, F] tensors."""
    products = lambda n: torch.einsum("tld,vfd->tvlf", *(F.normalize(side[n], dim=-1) for side in (words, visual)))
    low = products("tokens")
    distance = 2 - 2 * products("high")
    scales = [2.0 ** (k - kernels // 2) for k in range(kernels)]
    high = sum(torch.exp(-distance / (2 * scale)) for scale in scales) / kernels
    sigmas = [torch.exp(0.5 * side["log_var"]) for side in (words, visual)]
    squares = [s.square().sum(-1) for s in sigmas]
    spread = squares[0][:, None, :, None] + squares[1][None, :, None, :]
    spread = spread - 2 * torch.einsum("tld,vfd->tvlf", *sigmas)
    spaces = low, high, 1 - 0.5 * (2 - 2 * low + spread)
    return {n: aggregate(s, visual, words, sharpness) for n, s in zip(SIMILARITIES, spaces, strict=True)}


def aggregate(s, visual: dict, words: dict, sharpness: float):
    """½ (Σ_l w_l Σ_f S softmax_f(λS) + Σ_f u_f Σ_l S softmax_l(λS)), `[T, V, L, F]` → `[V, T]`."""
    of_words = (s * (sharpness * s).masked_fill(~visual["mask"][None, :, None, :], -1e30).softmax(3)).sum(3)
    of_frames = (s * (sharpness * s).masked_fill(~words["mask"][:, None, :, None], -1e30).softmax(2)).sum(2)
    both = torch.einsum("tvl,tl->vt", of_words, words["weights"])
    return (both + torch.einsum("tvf,vf->vt", of_frames, visual["weights"])) / 2


def kl(side: dict):
    """To N(0, 1 / D), summed over dimensions, mean over the valid tokens."""
    log_var, mean = side["log_var"], F.normalize(side["tokens"], dim=-1)
    prior = torch.tensor(1 / mean.shape[-1], device=mean.device)
    each = 0.5 * ((log_var.exp() + mean.square()) / prior - 1 - log_var + prior.log()).sum(-1)
    return each[side["mask"]].mean()
