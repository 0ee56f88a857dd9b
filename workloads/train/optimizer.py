"""optimizer.py - Muon for the matrices of the layers, Adam for everything else.

Muon follows the momentum's nearest orthogonal matrix, found by a Newton-Schulz iteration (Keller Jordan, 2024); it
trains small models in markedly fewer steps. Matrices of one shape are handled as one batch. Adam: betas 0.9 and 0.95,
eps 1e-8, as in the paper's recipe.
"""
import torch


def orthogonal(x, steps=5):
    """x [n][rows][columns] -> nearly orthogonal matrices of the same row and column spaces."""
    a, b, c = 3.4445, -4.7750, 2.0315       # the quintic whose iteration is steepest at 0
    x = x.to(torch.bfloat16)
    wide = x.shape[1] <= x.shape[2]
    x = x if wide else x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x if wide else x.mT


class Optimizer:
    """`names`: of the weights to train. rates: {"matrix", "embedding", "head", "gain", "index"} -> learning rate."""

    def __init__(self, weights, names, rates, decay=0.1, momentum=0.95):
        self.weights, self.rates, self.decay, self.momentum = weights, rates, decay, momentum
        self.kinds = {name: kind_of(name) for name in names}
        self.groups = {}
        for name in names:
            if self.kinds[name] == "matrix":
                self.groups.setdefault(tuple(weights[name].shape), []).append(name)
        self.adam = [name for name in names if self.kinds[name] != "matrix"]
        self.step_count = 0
        self.state = {name: torch.zeros_like(weights[name]) for name in names}
        self.square = {name: torch.zeros_like(weights[name]) for name in self.adam}

    @torch.no_grad()
    def step(self, scale):
        """One update with all rates times `scale`; clears the gradients."""
        self.step_count += 1
        for shape, names in self.groups.items():
            weights = [self.weights[name] for name in names]
            gradients = [w.grad for w in weights]
            momenta = [self.state[name] for name in names]
            torch._foreach_lerp_(momenta, gradients, 1 - self.momentum)
            update = orthogonal(torch.stack(torch._foreach_lerp(gradients, momenta, self.momentum)))
            rate = self.rates["matrix"] * scale
            torch._foreach_mul_(weights, 1 - rate * self.decay)
            factor = -rate * max(1.0, shape[0] / shape[1]) ** 0.5
            torch._foreach_add_(weights, list(update.to(weights[0].dtype).unbind()), alpha=factor)
        self.step_adam(scale)
        for name in self.state:
            self.weights[name].grad = None

    def step_adam(self, scale):
        correct1, correct2 = 1 - 0.9 ** self.step_count, 1 - 0.95 ** self.step_count
        for kind in ("embedding", "head", "gain", "index"):
            names = [name for name in self.adam if self.kinds[name] == kind]
            if not names:
                continue
            gradients = [self.weights[name].grad for name in names]
            first, second = [self.state[name] for name in names], [self.square[name] for name in names]
            torch._foreach_lerp_(first, gradients, 0.1)
            torch._foreach_mul_(second, 0.95)
            torch._foreach_addcmul_(second, gradients, gradients, 0.05)
            divisor = torch._foreach_sqrt(torch._foreach_div(second, correct2))
            torch._foreach_add_(divisor, 1e-8)
            torch._foreach_addcdiv_([self.weights[name] for name in names], first, divisor,
                                    -self.rates[kind] * scale / correct1)

    def state_dict(self):
        return {"step_count": self.step_count, "state": self.state, "square": self.square}

    def load_state_dict(self, saved):
        self.step_count = saved["step_count"]
        for mine, theirs in ((self.state, saved["state"]), (self.square, saved["square"])):
            for name in mine:
                mine[name].copy_(theirs[name])


def kind_of(name):
    if "indexer." in name:
        return "index"
    if name.endswith("embed_tokens.weight"):
        return "embedding"
    if name == "lm_head.weight":
        return "head"
    return "gain" if "norm" in name else "matrix"
