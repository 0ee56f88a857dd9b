"""golden.py - golden files for tests/test_logits.c: the logits that PyTorch finds for tiny random models and for the
trained ones.

    python golden.py tests/data/logits workloads/models

For each backbone a folder with the tokens and, for each method, the logits after token `first_row` and each later one,
fp32. The random models are written too: weights are rounded to bf16 first, as the files hold them; every norm is random,
so that none can be forgotten unnoticed.
"""
import os
import sys

import numpy as np
import torch

import model as backbone

SHAPE = {"hidden": 32, "ffn": 48, "layers": 4, "heads": 4, "kv_heads": 2, "head_dim": 16, "vocab": 258, "window": 8,
         "top_k": 16, "index_dim": 16, "index_local": 3}
METHODS = {"yoco": ["yoco", "clsa", "clsa-block", "yoco-token"],
           "transformer": ["dense", "token", "indexcache", "block"]}
BLOCK_TOKENS, SEED = 4, 20
# Rows before the first are left out: small files. A smaller budget for the trained ones would be half local, 32 tokens: the
# engine then keeps fewer, this does not.
RANDOM = {"n_tokens": 48, "first_row": 30, "top_k": 16}
TRAINED = {"n_tokens": 256, "first_row": 250, "top_k": 64}


def random_model(folder, name):
    """Writes the model folder. -> (geometry, weights, the generator that made them)"""
    g = backbone.Geometry(name, **SHAPE)
    rng = torch.Generator().manual_seed(SEED)
    weights = {}
    for key, w in backbone.init(g, SEED).items():
        noise = torch.randn(w.shape, generator=rng)
        fresh = 1.2 + 0.3 * noise if w.ndim == 1 else noise / w.shape[1] ** 0.5
        weights[key] = fresh.to(torch.bfloat16).float()
    backbone.save(folder, g, weights)
    return g, weights, rng


def write(folder, name, g, weights, rng, n_tokens, first_row, top_k):
    os.makedirs(folder, exist_ok=True)
    # No token twice: in the first layer equal tokens have equal index scores, and which of them PyTorch takes is open.
    tokens = torch.randperm(256, generator=rng)[None, :n_tokens]
    tokens[0, 0] = backbone.BEGIN
    tokens[0].numpy().astype("<i4").tofile(os.path.join(folder, "tokens.i32"))
    model = backbone.Model(g, weights, dtype=torch.float32)
    for method in METHODS[name]:
        logits = model.head(model.open_pass(tokens, method, top_k, unit=BLOCK_TOKENS))
        logits[0, first_row:].numpy().astype("<f4").tofile(os.path.join(folder, f"{method}.f32"))
    dense = model.head(model.hidden(tokens))
    again = np.fromfile(os.path.join(folder, f"{METHODS[name][0]}.f32"), "<f4").reshape(-1, g.vocab)
    assert np.abs(dense[0, first_row:].numpy() - again).max() < 1e-4, "the two forward passes differ"


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: golden.py FOLDER MODELS")
    torch.set_grad_enabled(False)
    for name in METHODS:
        into = os.path.join(sys.argv[1], name)
        write(into, name, *random_model(into, name), **RANDOM)
        into = os.path.join(sys.argv[1], f"demo-{name}")
        trained = backbone.load(os.path.join(sys.argv[2], f"demo-{name}"))
        write(into, name, *trained, torch.Generator().manual_seed(SEED), **TRAINED)
