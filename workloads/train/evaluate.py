"""evaluate.py - accuracy on the tasks and bits per byte, in PyTorch, beside the training.

An answer counts if every byte of it is the likeliest where the bytes before it are given: the same as greedy decoding
that must match. Filler and text are the held-out ones. The C program's `clsa eval` is the real evaluation; this one
tells during training whether it goes well.
"""
import math

import numpy as np
import torch

import data


@torch.no_grad()
def accuracy(model, texts, task, length, n, seed, method="dense", budget=0, batch=8, device="cuda"):
    rng = np.random.default_rng([seed, data.TASKS.index(task), length])
    right = 0
    for first in range(0, n, batch):
        made = [data.task_document(rng, texts, length, task) for _ in range(min(batch, n - first))]
        tokens = torch.from_numpy(np.stack([tokens for tokens, _, _ in made]).astype(np.int64)).to(device)
        x = model.hidden(tokens) if method == "dense" else model.open_pass(tokens, method, budget)
        answer = made[0][2]         # the same length in every document of a task
        guess = model.head(x[:, -answer - 1:-1]).argmax(-1)
        right += int((guess == tokens[:, -answer:]).all(-1).sum())
    return right / n


@torch.no_grad()
def bits_per_byte(model, text, length, method="dense", budget=0, batch=8, device="cuda"):
    """Over documents of BEGIN and length - 1 bytes, end to end; a last short one is left out."""
    n = len(text) // (length - 1)
    body = torch.from_numpy(text[:n * (length - 1)].astype(np.int64)).view(n, length - 1)
    tokens = torch.cat([torch.full((n, 1), data.BEGIN), body], 1).to(device)
    nats = 0.0
    for part in tokens.split(batch):
        x = model.hidden(part) if method == "dense" else model.open_pass(part, method, budget)
        logits = model.head(x[:, :-1])
        nats += torch.nn.functional.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten(), reduction="sum").item()
    return nats / math.log(2) / body.numel()


def report(model, heldout, length, samples, cases, device="cuda", seed=99, batch=8):
    """Yields rows {method, budget, length, n, bits_per_byte, <task>: accuracy}: dense with samples[0] documents per
    task, then each (method, budget) of `cases` with samples[1]."""
    texts = data.Texts([("heldout", 1.0, heldout)])
    for method, budget in [("dense", 0), *cases]:
        n, size = (samples[0], batch) if method == "dense" else (samples[1], max(1, batch // 4))   # masks are large
        row = {"method": method, "budget": budget, "length": length, "n": n,
               "bits_per_byte": round(bits_per_byte(model, heldout, length, method, budget, size, device), 4)}
        for task in data.TASKS:
            row[task] = round(accuracy(model, texts, task, length, n, seed, method, budget, size, device), 3)
        yield row
