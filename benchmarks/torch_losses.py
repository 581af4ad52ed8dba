"""The losses of the papers in PyTorch eager, written from their equations, for `losses.py` to compare with.

Each takes the scores `[B, B]` (rows = visuals, columns = texts, positives on the diagonal), the relevance `[B, B]` and
the diagonal as a mask, and gives the papers' number: the mean over queries and over both directions. As in the papers'
own code the positive is the diagonal and B is the number of queries: nothing here knows masked rows, several positives
or Q ≠ C. The relevance has to be symmetric; then what the official listwise codes do, to take the rows of the relevance
for both directions, is right, and what depends on it alone (ideal ranks, pairs) is computed once for both.

`FORMS` holds them by name. Beside the direct form of some there is `…_lean`: the same number with as few and as small
arrays as eager PyTorch allows.
"""

import functools

import torch
from torch import Tensor
from torch.nn import functional as F


def both_directions(loss):
    """The mean over both directions of `loss(s, r, eye, dim) -> [B]`, which ranks the candidates along `dim`."""

    @functools.wraps(loss)
    def total(s: Tensor, r: Tensor, eye: Tensor) -> Tensor:
        return (loss(s, r, eye, 1).mean() + loss(s, r, eye, 0).mean()) / 2

    return total


def hinges(s: Tensor, eye: Tensor, dim: int, margin: float) -> Tensor:
    """[s_n - s_p + margin]_+ of every negative, 0 on the diagonal."""
    return (s - s.diagonal().unsqueeze(dim) + margin).clamp(min=0).masked_fill(eye, 0)


@both_directions
def triplet_hard(s, r, eye, dim, margin=0.2):
    """VSE++: max_n [s_n - s_p + m]_+."""
    return hinges(s, eye, dim, margin).max(dim)[0]


@both_directions
def triplet_sum(s, r, eye, dim, margin=0.2):
    """VSE0: sum_n [s_n - s_p + m]_+."""
    return hinges(s, eye, dim, margin).sum(dim)


def cross_entropy(logits: Tensor) -> Tensor:
    """The mean cross-entropy of rows and of columns, the positives on the diagonal, as CLIP's paper writes it."""
    own = torch.arange(len(logits))
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def cross_entropy_lean(logits: Tensor) -> Tensor:
    """The same number without a copy of the columns."""
    return -sum(F.log_softmax(logits, dim).diagonal().mean() for dim in (0, 1)) / 2


def info_nce(s, r, eye, temperature=0.05, entropy=cross_entropy):
    """VLC: the cross-entropy of rows and of columns."""
    return entropy(s / temperature)


info_nce_lean = functools.partial(info_nce, entropy=cross_entropy_lean)


def sigmoid(s, r, eye, temperature=0.1, bias=-10.0):
    """SigLIP: binary cross-entropies of all pairs; the mean over rows of their sums is that over columns."""
    return -F.logsigmoid((2.0 * eye - 1) * (s / temperature + bias)).sum() / len(s)


@both_directions
def unified(s, r, eye, dim, margin=0.2, temperature=0.01):
    """Unified loss: τ softplus(u / τ), u = τ log sum_n exp((s_n - s_p + m) / τ)."""
    gaps = (s - s.diagonal().unsqueeze(dim) + margin).masked_fill(eye, -torch.inf)
    return F.softplus(temperature * torch.logsumexp(gaps / temperature, dim), beta=1 / temperature)


@both_directions
def selhn(s, r, eye, dim, margin=0.2, threshold=0.01):
    """SelHN: the mean over negatives where the hardest is as good as the positive, else the hardest."""
    cost = hinges(s, eye, dim, margin)
    hardest = s.detach().masked_fill(eye, -1).max(dim)[0]
    delta = (s.detach().diagonal() - hardest).abs()
    return torch.where(delta < threshold, cost.sum(dim) / (len(s) - 1), cost.max(dim)[0])


@both_directions
def triplet_soft(s, r, eye, dim, margin=0.2, temperature=0.01):
    """Triplet-SN: [τ log sum_n exp((s_n - s_p + m) / τ)]_+."""
    gaps = (s - s.diagonal().unsqueeze(dim) + margin).masked_fill(eye, -torch.inf)
    return (temperature * torch.logsumexp(gaps / temperature, dim)).clamp(min=0)


def adaptive_contrastive(s, r, eye, margin=0.2, temperature=0.01, entropy=cross_entropy):
    """ProTA: cross-entropies of rows and columns after m · clip(1 - s_p, 0, 1), a constant, is taken off s_p."""
    own = margin * (1 - s.detach().diagonal()).clamp(0, 1)
    return entropy((s - torch.diag(own)) / temperature)


adaptive_contrastive_lean = functools.partial(adaptive_contrastive, entropy=cross_entropy_lean)


def adaptive_margin(s, r, eye, margin=0.2, alpha=0.18, temperature=0.05):
    """LG: -log(exp(s_p / τ) / sum_j exp((s_j + M_j) / τ)); M = m where R < α, else m (1 - R) / (1 - α); 0 on p."""
    margins = torch.where(r < alpha, margin, margin / (1 - alpha) * (1 - r)).masked_fill(eye, 0)
    logits, positive = (s + margins) / temperature, s.diagonal() / temperature
    rows, columns = torch.logsumexp(logits, 1) - positive, torch.logsumexp(logits, 0) - positive
    return (rows.mean() + columns.mean()) / 2


@both_directions
def kendall_window(s, r, eye, dim):
    """SW-HS: candidates by falling relevance; of all pairs B / 4 places apart the one most out of order."""
    window = len(s) // 4
    order = r.sort(dim=dim, descending=True, stable=True)[1]
    ranked = s.gather(dim, order)
    better, worse = ranked.narrow(dim, 0, len(s) - window), ranked.narrow(dim, window, len(s) - window)
    return (worse - better).clamp(min=0).max(dim)[0]


def differences(x: Tensor, repeat: bool) -> Tensor:
    """x_k - x_j of each query at `[q, j, k]`; from two repeated copies, as the official listwise codes form it."""
    if not repeat:
        return x[:, None, :] - x[:, :, None]
    copies = x.unsqueeze(1).repeat(1, x.shape[1], 1)
    return copies - copies.permute(0, 2, 1)


def discounted(gain: Tensor, ranks: Tensor) -> Tensor:
    """Discounted cumulative gain of each query."""
    return (gain / torch.log2(1 + ranks)).sum(1)


def smooth_ndcg(s, r, eye, temperature=0.01):
    """S-NDCG: 1 - DCG / IDCG with ranks 1 + sum_{k != j} 1 / (1 + exp(clip(-(s_k - s_j) / τ, -50, 50)))."""
    gain = 2**r - 1
    ideal = discounted(gain, 1 + torch.where(differences(r, True) > 0, 1.0, 0.0).sum(2))
    others = (~eye).to(s.dtype)  # k = j does not count

    def one(x):
        above = 1 / (1 + (-differences(x, True) / temperature).clamp(-50, 50).exp())
        return (1 - discounted(gain, 1 + (above * others).sum(2)) / ideal).mean()

    return (one(s) + one(s.T)) / 2


def smooth_ndcg_lean(s, r, eye, temperature=0.01):
    """As `smooth_ndcg`: no copies, the built-in sigmoid, and 1/2 taken off instead of a mask."""
    gain = 2**r - 1
    ideal = discounted(gain, 1 + (r[:, None, :] > r[:, :, None]).sum(2))
    one = lambda x: (
        1 - discounted(gain, 0.5 + torch.sigmoid(differences(x, False) / temperature).sum(2)) / ideal
    ).mean()
    return (one(s) + one(s.T)) / 2


def kendall(s, r, eye, gap=0.3):
    """Dense Kendall: the mean of [s_k - s_j]_+ over all j, k of all queries with R_j - R_k > gap."""
    pairs = torch.where(differences(r, True).clamp(max=0) + gap < 0, 1.0, 0.0)
    one = lambda x: (pairs * differences(x, True).clamp(min=0)).sum()
    return (one(s) + one(s.T)) / 2 / pairs.sum()


def kendall_lean(s, r, eye, gap=0.3):
    """As `kendall`: no floats over pairs: a score counts as often as it is on either side of a discordant pair."""
    pairs = r[:, :, None] - r[:, None, :] > gap

    def one(x):
        discordant = pairs & (x[:, None, :] >= x[:, :, None])
        return (x * (discordant.sum(1) - discordant.sum(2))).sum()

    return (one(s) + one(s.T)) / 2 / pairs.sum()


PAIRWISE = {
    "triplet_hard": triplet_hard,
    "triplet_sum": triplet_sum,
    "info_nce": info_nce,
    "info_nce_lean": info_nce_lean,
    "sigmoid": sigmoid,
    "unified": unified,
    "selhn": selhn,
    "triplet_soft": triplet_soft,
    "adaptive_contrastive": adaptive_contrastive,
    "adaptive_contrastive_lean": adaptive_contrastive_lean,
    "adaptive_margin": adaptive_margin,
    "kendall_window": kendall_window,
}
LISTWISE = {
    "smooth_ndcg": smooth_ndcg,
    "smooth_ndcg_lean": smooth_ndcg_lean,
    "kendall": kendall,
    "kendall_lean": kendall_lean,
}
FORMS = PAIRWISE | LISTWISE
