"""distill.py - what the indexers learn: where dense attention looks.

The target of a row is the mean of dense attention over the heads (and, for a shared indexer, over the layers) that
follow the index; the loss is KL(target || softmax(index scores)), over a sample of rows. An indexer of the Transformer
knows no positions, and the nearest `index_local` tokens are selected without it: they are left out on both sides, and a
row counts by the attention that remains.
"""
import torch


def sample_rows(n_tokens, n_rows, device, rng):
    """The last quarter of the rows of the sample: those where a document asks. The rest anywhere before."""
    tail = n_rows // 4
    body = torch.randperm(n_tokens - tail, generator=rng)[:n_rows - tail].sort().values
    return torch.cat([body, torch.arange(n_tokens - tail, n_tokens)]).to(device)


@torch.no_grad()
def attention(q, k, rows):
    """Dense attention of the sampled rows [B][G][R][T], mean over the query heads of each key head."""
    B, H, T, d = q.shape
    G = k.shape[1]
    hidden = rows[:, None] < torch.arange(T, device=q.device)[None, :]
    mean = None
    for h in range(H // G):         # one head of each group at a time: all at once would fill the memory
        score = (q[:, h::H // G][:, :, rows] @ k.mT).float() * d ** -0.5
        weight = score.masked_fill(hidden, float("-inf")).softmax(-1)
        mean = weight if mean is None else mean + weight
    return mean / (H // G)


def divergence(target, q, k, rows, keep):
    """KL of target [B][S][R][T] to one index branch (q [B][S][T][i], k [B][1][T][i])."""
    T = target.shape[-1]
    distance = rows[:, None] - torch.arange(T, device=rows.device)[None, :]
    visible = (distance >= keep) if keep else (distance >= 0)
    any_visible = visible.any(-1)
    score = (q[:, :, rows] @ k.mT).float()
    # Rows that see nothing keep one finite score, so that their softmax exists; they weigh nothing.
    score = score.masked_fill(~(visible | (~any_visible[:, None] & (distance == 0))), float("-inf"))
    target = target * visible
    mass = target.sum(-1)
    log_student = score.log_softmax(-1).masked_fill(~visible, 0)
    entropy = torch.special.xlogy(target, target).sum(-1) - torch.special.xlogy(mass, mass)
    row_loss = entropy - (target * log_student).sum(-1)         # mass * KL of the normalised target
    return row_loss.sum() / mass.sum().clamp_min(1e-6)


attention_compiled = torch.compile(attention, dynamic=False)
divergence_compiled = torch.compile(divergence, dynamic=False)


class Distiller:
    """The probe of one open_pass; loss() after it. Gives the mean over branches, so that no model's weighs more.
    compiled: worth it for long documents, whose scores would cross the memory some twenty times."""

    def __init__(self, g, rows, compiled=False):
        self.g, self.rows = g, rows
        self.attention, self.divergence = (attention_compiled, divergence_compiled) if compiled else (attention, divergence)
        self.shared, self.shared_branch, self.losses = None, None, []

    def __call__(self, l, q, k, branches):
        target = self.attention(q.detach(), k.detach(), self.rows)       # [B][G][R][T]
        mean = target.mean(1, keepdim=True)
        keep = 0 if self.g.yoco else self.g.index_local
        if self.g.yoco:
            self.shared = mean if self.shared is None else self.shared + mean
            self.shared_branch = branches.get("indexer", self.shared_branch)
            self.losses.append(self.divergence(mean, *branches["layer_indexer"], self.rows, keep))
        else:
            self.losses.append(self.divergence(mean, *branches["indexer"], self.rows, keep))
            self.losses.append(self.divergence(target, *branches["group_indexer"], self.rows, keep))

    def loss(self):
        if self.g.yoco:
            layers = self.g.layers - self.g.windows
            self.losses.append(self.divergence(self.shared / layers, *self.shared_branch, self.rows, 0))
        return torch.stack(self.losses).mean()
