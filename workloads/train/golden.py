"""golden.py - golden files for tests/test_logits.c: tiny random models and the logits that PyTorch finds for them.

    python golden.py tests/data/logits

For each backbone a model folder, the tokens, and for each method the logits after token FIRST_ROW and each later one,
fp32. Weights are rounded to bf16 first, as the files hold them; every norm is random, so that none can be forgotten
unnoticed.
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
N_TOKENS, BLOCK_TOKENS, SEED = 48, 4, 20
FIRST_ROW = 30              # rows before it are left out: small files


def write(folder, name):
    g = backbone.Geometry(name, **SHAPE)
    rng = torch.Generator().manual_seed(SEED)
    weights = {}
    for key, w in backbone.init(g, SEED).items():
        noise = torch.randn(w.shape, generator=rng)
        fresh = 1.2 + 0.3 * noise if w.ndim == 1 else noise / w.shape[1] ** 0.5
        weights[key] = fresh.to(torch.bfloat16).float()
    into = os.path.join(folder, name)
    backbone.save(into, g, weights)
    # No token twice: in the first layer equal tokens have equal index scores, and which of them PyTorch takes is open.
    tokens = torch.randperm(256, generator=rng)[None, :N_TOKENS]
    tokens[0, 0] = backbone.BEGIN
    tokens[0].numpy().astype("<i4").tofile(os.path.join(into, "tokens.i32"))
    model = backbone.Model(g, weights, dtype=torch.float32)
    for method in METHODS[name]:
        logits = model.head(model.open_pass(tokens, method, g.top_k, unit=BLOCK_TOKENS))
        logits[0, FIRST_ROW:].numpy().astype("<f4").tofile(os.path.join(into, f"{method}.f32"))
    dense = model.head(model.hidden(tokens))
    again = np.fromfile(os.path.join(into, f"{METHODS[name][0]}.f32"), "<f4").reshape(-1, g.vocab)
    assert np.abs(dense[0, FIRST_ROW:].numpy() - again).max() < 1e-4, "the two forward passes differ"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: golden.py FOLDER")
    torch.set_grad_enabled(False)
    for name in METHODS:
        write(sys.argv[1], name)
