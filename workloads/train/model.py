"""model.py - the two backbones in PyTorch, with the names, shapes and arithmetic of the C engine.

Weights are a flat dict of fp32 tensors under the engine's names (engine/model_file.h), so that a checkpoint is the
model file. The layers are plain functions of tensors: all layers of one kind share one compiled kernel sequence.
`dtype` is the arithmetic of activations: bfloat16 to train, float32 to compare with the engine. Norms and softmax are
fp32 either way.

Shapes: B documents, T tokens, R of their rows, D hidden, H query heads, G key heads, d head size, i index size.
"""
import json
import math
import os
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

BEGIN = 256


@dataclass(frozen=True)
class Geometry:
    backbone: str               # "yoco" | "transformer"
    hidden: int = 256
    ffn: int = 768
    layers: int = 8
    heads: int = 8
    kv_heads: int = 2
    head_dim: int = 32
    vocab: int = 512
    window: int = 128
    top_k: int = 256
    index_dim: int = 32
    # The nearest tokens that per-layer selectors of the Transformer always keep: their indexers know no positions.
    index_local: int = 32
    theta_window: float = 1e4
    theta_global: float = 5e5
    eps: float = 1e-5

    @property
    def yoco(self):
        return self.backbone == "yoco"

    @property
    def windows(self):
        return self.layers // 2 if self.yoco else 0

    def config(self, name=""):
        return {
            "architectures": ["ClsaForCausalLM"], "model_type": "clsa",
            "_name_or_path": name or f"demo-{self.backbone}",
            "clsa_backbone": self.backbone, "hidden_size": self.hidden, "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers, "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads, "head_dim": self.head_dim, "vocab_size": self.vocab,
            "sliding_window": self.window, "clsa_top_k": self.top_k, "clsa_index_dim": self.index_dim,
            "clsa_index_local": 0 if self.yoco else self.index_local, "clsa_lightning_heads": 8,
            "rope_theta": self.theta_global, "clsa_rope_theta_window": self.theta_window, "rms_norm_eps": self.eps,
            "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        }

    @staticmethod
    def from_config(config):
        return Geometry(
            backbone=config["clsa_backbone"], hidden=config["hidden_size"], ffn=config["intermediate_size"],
            layers=config["num_hidden_layers"], heads=config["num_attention_heads"],
            kv_heads=config["num_key_value_heads"], head_dim=config["head_dim"], vocab=config["vocab_size"],
            window=config["sliding_window"], top_k=config["clsa_top_k"], index_dim=config["clsa_index_dim"],
            index_local=config.get("clsa_index_local", 0), theta_window=config["clsa_rope_theta_window"],
            theta_global=config["rope_theta"], eps=config["rms_norm_eps"])


# ----------------------------------------------------------------------------------------------------------------------
# Weights

def indexer_names(g):
    """Every index branch: (layer, name, query heads)."""
    if g.yoco:
        return [(g.windows, "indexer", 1)] + [(l, "layer_indexer", 1) for l in range(g.windows, g.layers)]
    return [(l, name, heads) for l in range(g.layers) for name, heads in (("indexer", 1), ("group_indexer", g.kv_heads))]


def init(g, seed):
    """Fresh weights. Projections into the residual stream begin at zero: each layer begins as the identity."""
    rng = torch.Generator().manual_seed(seed)
    weights = {}

    def matrix(name, rows, columns, scale=1.0):
        weights[name] = torch.randn(rows, columns, generator=rng) * (scale / math.sqrt(columns))

    def norm(name, size, value=1.0):
        weights[name] = torch.full((size,), value)

    kv = g.kv_heads * g.head_dim
    # The engine multiplies YOCO's embeddings by sqrt(hidden); either way they enter with size 1.
    matrix("model.embed_tokens.weight", g.vocab, g.hidden, 1.0 if g.yoco else math.sqrt(g.hidden))
    for l in range(g.layers):
        at = f"model.layers.{l}."
        norm(at + "input_layernorm.weight", g.hidden)
        matrix(at + "self_attn.q_proj.weight", g.heads * g.head_dim, g.hidden)
        if l < g.windows or not g.yoco:
            matrix(at + "self_attn.k_proj.weight", kv, g.hidden)
            matrix(at + "self_attn.v_proj.weight", kv, g.hidden)
            # 1.5 each: scores of normed vectors reach 13, enough to pick one key among thousands.
            norm(at + "self_attn.q_norm.weight", g.head_dim, 1.5)
            norm(at + "self_attn.k_norm.weight", g.head_dim, 1.5)
        matrix(at + "self_attn.o_proj.weight", g.hidden, g.heads * g.head_dim, 0.0)
        norm(at + "post_attention_layernorm.weight", g.hidden)
        matrix(at + "mlp.gate_proj.weight", g.ffn, g.hidden)
        matrix(at + "mlp.up_proj.weight", g.ffn, g.hidden)
        matrix(at + "mlp.down_proj.weight", g.hidden, g.ffn, 0.0)
    for l, name, heads in indexer_names(g):
        matrix(f"model.layers.{l}.{name}.q_proj.weight", heads * g.index_dim, g.hidden, 0.5)
        matrix(f"model.layers.{l}.{name}.k_proj.weight", g.index_dim, g.hidden, 0.5)
    if g.yoco:
        norm("model.memory.norm.weight", g.hidden)
        matrix("model.memory.k_proj.weight", kv, g.hidden)
        matrix("model.memory.v_proj.weight", kv, g.hidden)
    norm("model.norm.weight", g.hidden)
    matrix("lm_head.weight", g.vocab, g.hidden, 0.0)
    return weights


def is_index(name):
    return "indexer." in name


def save(folder, g, weights, name=""):
    """A model folder as the engine reads it; bf16, each file replaced whole. `name`: that tables show."""
    os.makedirs(folder, exist_ok=True)
    part = os.path.join(folder, "model.safetensors.part")
    save_file({name: w.detach().to("cpu", torch.bfloat16).contiguous() for name, w in weights.items()}, part)
    os.replace(part, part[:-len(".part")])
    with open(os.path.join(folder, "config.json"), "w", encoding="ascii") as file:
        json.dump(g.config(name), file, indent=2)
        file.write("\n")


def load(folder, device="cpu"):
    with open(os.path.join(folder, "config.json"), encoding="ascii") as file:
        g = Geometry.from_config(json.load(file))
    weights = load_file(os.path.join(folder, "model.safetensors"))
    return g, {name: w.to(device, torch.float32) for name, w in weights.items()}


# ----------------------------------------------------------------------------------------------------------------------
# Pieces

def rms_norm(x, gain, eps):
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps) * gain).to(x.dtype)


def linear(x, weight):
    return F.linear(x, weight.to(x.dtype))


def rotation(g, n_tokens, theta, device):
    """cos and sin [T][d/2] of pairs (j, j + d/2)."""
    rate = theta ** (-torch.arange(0, g.head_dim, 2, device=device, dtype=torch.float64) / g.head_dim)
    angle = torch.outer(torch.arange(n_tokens, device=device, dtype=torch.float64), rate)
    return angle.cos().float(), angle.sin().float()


def rotate(x, cos, sin):
    """x [B][heads][T][d]"""
    low, high = x.float().chunk(2, -1)
    return torch.cat([low * cos - high * sin, high * cos + low * sin], -1).to(x.dtype)


def split_heads(x, dim):
    return x.unflatten(-1, (-1, dim)).transpose(1, 2)       # [B][T][heads*d] -> [B][heads][T][d]


def join_heads(x):
    return x.transpose(1, 2).flatten(-2)


def attend_full(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def attend_masked(q, k, v, mask):
    """mask [B][1 | H][T][T], true where a key is read."""
    repeat = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def attend_window(q, k, v, window):
    """Blocks of `window` queries see their own block and the one before; a band of the two is the window."""
    B, H, T, d = q.shape
    G, n = k.shape[1], T // window
    q = q.view(B, G, H // G, n, window, d)
    k, v = (F.pad(x, (0, 0, window, 0)).view(B, G, n + 1, window, d) for x in (k, v))
    k, v = (torch.cat([x[:, :, :-1], x[:, :, 1:]], 3) for x in (k, v))      # [B][G][n][2 window][d]
    # Scores stay in the order of the product (heads inside blocks): of rows in another order PyTorch 2.11's compiler makes a
    # kernel, in the backward pass of softmax, that reads again what other threads may not have written yet.
    score = torch.einsum("bghnqd,bgnkd->bgnhqk", q, k).float() * d ** -0.5
    row = torch.arange(window, device=q.device)[:, None]
    column = torch.arange(2 * window, device=q.device)[None, :]
    band = (column > row) & (column <= row + window)
    first = torch.arange(n, device=q.device)[:, None, None, None] == 0
    visible = band & ~(first & (column < window))
    weight = score.masked_fill(~visible, float("-inf")).softmax(-1).to(v.dtype)
    return torch.einsum("bgnhqk,bgnkd->bghnqd", weight, v).reshape(B, H, T, d)


def feed(x, norm, gate, up, down, eps):
    normed = rms_norm(x, norm, eps)
    return x + linear(F.silu(linear(normed, gate)) * linear(normed, up), down)


# ----------------------------------------------------------------------------------------------------------------------
# Layers. `w` is the tuple of layer_weights().

ATTENTION = ["input_layernorm", "self_attn.q_proj", "self_attn.o_proj"]
FEED = ["post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
OWN_KV = ["self_attn.k_proj", "self_attn.v_proj", "self_attn.q_norm", "self_attn.k_norm"]


def layer_weights(weights, g, l):
    own = OWN_KV if l < g.windows or not g.yoco else []
    return tuple(weights[f"model.layers.{l}.{name}.weight"] for name in ATTENTION + FEED + own)


def project_own(normed, w, g, cos, sin):
    """Queries, keys and values of a layer with its own: normed per head, rotated."""
    q = rms_norm(split_heads(linear(normed, w[1]), g.head_dim), w[9], g.eps)
    k = rms_norm(split_heads(linear(normed, w[7]), g.head_dim), w[10], g.eps)
    return rotate(q, cos, sin), rotate(k, cos, sin), split_heads(linear(normed, w[8]), g.head_dim)


def finish(x, attended, w, g):
    x = x + linear(join_heads(attended), w[2])
    return feed(x, *w[3:7], g.eps)


def window_layer(x, w, g, cos, sin):
    q, k, v = project_own(rms_norm(x, w[0], g.eps), w, g, cos, sin)
    return finish(x, attend_window(q, k, v, g.window), w, g)


def full_layer(x, w, g, cos, sin):
    q, k, v = project_own(rms_norm(x, w[0], g.eps), w, g, cos, sin)
    return finish(x, attend_full(q, k, v), w, g)


def cross_layer(x, w, g, k, v):
    q = split_heads(linear(rms_norm(x, w[0], g.eps), w[1]), g.head_dim)
    return finish(x, attend_full(q, k, v), w, g)


def memory(x, norm, k, v, g):
    """The shared memory: (H [B][T][D], keys, values)."""
    h = rms_norm(x, norm, g.eps)
    return h, split_heads(linear(h, k), g.head_dim), split_heads(linear(h, v), g.head_dim)


def weighted_loss(x, norm, head, target, weight, eps):
    """Sum of weight * cross-entropy in nats, over the sum of weights."""
    logits = linear(rms_norm(x, norm, eps), head).float()
    loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
    return (loss * weight.flatten()).sum() / weight.sum()


class Model:
    """The forward passes over one dict of weights."""

    def __init__(self, g, weights, compiled=False, dtype=torch.bfloat16):
        self.g, self.weights, self.dtype = g, weights, dtype
        self.rotations = {}
        wrap = (lambda f: torch.compile(f, dynamic=False)) if compiled else (lambda f: f)
        self.window_layer, self.full_layer, self.cross_layer = wrap(window_layer), wrap(full_layer), wrap(cross_layer)
        self.weighted_loss = wrap(weighted_loss)

    def __getitem__(self, name):
        return self.weights[name]

    def rotation(self, n_tokens, theta, device):
        key = (n_tokens, theta, device)
        if key not in self.rotations:
            self.rotations[key] = rotation(self.g, n_tokens, theta, device)
        return self.rotations[key]

    def embed(self, tokens):
        x = F.embedding(tokens, self["model.embed_tokens.weight"])
        return (x * math.sqrt(self.g.hidden) if self.g.yoco else x).to(self.dtype)

    def memory(self, x):
        return memory(x, *(self[f"model.memory.{name}.weight"] for name in ("norm", "k_proj", "v_proj")), self.g)

    def hidden(self, tokens):
        """tokens [B][T] -> the residual stream before the last norm; dense attention."""
        g, x = self.g, self.embed(tokens)
        theta = g.theta_window if g.yoco else g.theta_global
        cos, sin = self.rotation(tokens.shape[1], theta, tokens.device)
        for l in range(g.layers):
            w = layer_weights(self.weights, g, l)
            if not g.yoco:
                x = self.full_layer(x, w, g, cos, sin)
            elif l < g.windows:
                x = self.window_layer(x, w, g, cos, sin)
            else:
                if l == g.windows:
                    _, k, v = self.memory(x)
                x = self.cross_layer(x, w, g, k, v)
        return x

    def head(self, x):
        return linear(rms_norm(x, self["model.norm.weight"], self.g.eps), self["lm_head.weight"]).float()

    def loss(self, tokens, target, weight):
        return self.loss_of(self.hidden(tokens), target, weight)

    def loss_of(self, x, target, weight):
        return self.weighted_loss(x, self["model.norm.weight"], self["lm_head.weight"], target, weight, self.g.eps)

    # The same pass, open for indexers: selects, and shows what each layer looks at.

    def index(self, l, name, query, key):
        """Index queries [B][heads][T][i] and keys [B][1][T][i] of one branch."""
        at = f"model.layers.{l}.{name}."
        return (split_heads(linear(query, self[at + "q_proj.weight"]), self.g.index_dim),
                split_heads(linear(key, self[at + "k_proj.weight"]), self.g.index_dim))

    def open_pass(self, tokens, method="dense", budget=0, unit=0, keep=None, probe=None):
        """The residual stream under `method`. probe(l, q, k, branches) sees each global layer's queries and keys and
        {indexer name: (index q, index k)}. keep: local tokens always selected (default: the model's)."""
        g, x = self.g, self.embed(tokens)
        keep = (0 if g.yoco else g.index_local) if keep is None else keep
        cos, sin = self.rotation(tokens.shape[1], g.theta_window if g.yoco else g.theta_global, tokens.device)
        mask = None
        for l in range(g.layers):
            w = layer_weights(self.weights, g, l)
            if l < g.windows:
                x = self.window_layer(x, w, g, cos, sin)
                continue
            normed = rms_norm(x, w[0], g.eps)
            if g.yoco:
                if l == g.windows:
                    h, k, v = self.memory(x)
                q = split_heads(linear(normed, w[1]), g.head_dim)
                branches = {"indexer": self.index(l, "indexer", h, h)} if l == g.windows else {}
                branches["layer_indexer"] = self.index(l, "layer_indexer", normed, h)
            else:
                q, k, v = project_own(normed, w, g, cos, sin)
                branches = {name: self.index(l, name, normed, normed) for name in ("indexer", "group_indexer")}
            if probe:
                probe(l, q, k, branches)
            name, every, block = METHODS[method]
            if name and (l - g.windows) % every == 0:
                mask = select(*branches[name], budget, (unit or 16) if block else 1, keep, g)
            x = finish(x, attend_masked(q, k, v, mask) if name else attend_full(q, k, v), w, g)
        return x


# method -> (index branch, layers that follow one index, whether blocks)
METHODS = {"dense": (None, 1, False), "yoco": (None, 1, False), "clsa": ("indexer", 1 << 30, False),
           "clsa-block": ("indexer", 1 << 30, True), "yoco-token": ("layer_indexer", 1, False),
           "token": ("indexer", 1, False), "indexcache": ("indexer", 4, False), "block": ("group_indexer", 1, True)}


@torch.no_grad()
def select(q, k, budget, unit, keep, g):
    """The mask [B][1 | H][T][T] of what one index branch selects, as the engine does: the best `budget / unit` units
    that a row sees, by the greatest score of their visible tokens, the nearest ones always. Among equal scores the
    engine takes the first, this any."""
    B, sets, T, _ = q.shape
    position = torch.arange(T, device=q.device)
    causal = position[:, None] >= position[None, :]
    score = torch.einsum("bstd,bkd->bstk", q.float(), k[:, 0].float()).masked_fill(~causal, float("-inf"))
    units = T // unit
    score = score.unflatten(-1, (units, unit)).amax(-1)
    local = max(-(-keep // unit), 1 if unit > 1 else 0)
    distance = position[:, None] // unit - torch.arange(units, device=q.device)[None, :]
    score = score.masked_fill((distance >= 0) & (distance < local), float("inf"))
    n = min(budget // unit, units)
    # Places, not a threshold: as many as the budget, however many scores are equal.
    mask = torch.zeros_like(score, dtype=torch.bool).scatter_(-1, score.topk(n, -1).indices, True)
    mask = mask.repeat_interleave(unit, -1) & causal
    return mask.repeat_interleave(g.heads // sets, 1) if sets > 1 else mask
