"""order5.py - the yardstick: an order-5 byte model of the training text, its bits per byte on the held-out text.

Witten-Bell interpolation: p_n(b) = (count(c b) + kinds(c) * p_(n-1)(b)) / (count(c) + kinds(c)) for the last n bytes c,
from p_(-1) = 1/256. Counts are of the whole training text.

    python order5.py DIR/corpus.xz HELDOUT
"""
import sys

import numpy as np

import corpus


def codes(text, n):
    """The n + 1 bytes that end at each place, as one number; the first n places have too few and are left out."""
    code = np.zeros(len(text) - n, np.uint64)
    for i in range(n + 1):
        code = (code << np.uint64(8)) | text[i:len(text) - n + i].astype(np.uint64)
    return code


def look_up(sorted_keys, values, wanted):
    at = np.minimum(np.searchsorted(sorted_keys, wanted), len(sorted_keys) - 1)
    return np.where(sorted_keys[at] == wanted, values[at], 0)


def bits_per_byte(train, text, order=5):
    p = np.full(len(text), 1 / 256)
    for n in range(order + 1):
        grams, counts = np.unique(codes(train, n), return_counts=True)
        contexts, first, kinds = np.unique(grams >> np.uint64(8), return_index=True, return_counts=True)
        totals = np.add.reduceat(counts, first)
        wanted = codes(text, n)
        count = look_up(grams, counts, wanted)
        total, kind = (look_up(contexts, values, wanted >> np.uint64(8)) for values in (totals, kinds))
        seen = total > 0
        tail = p[n:]
        p[n:] = np.where(seen, (count + kind * tail) / np.maximum(total + kind, 1), tail)
    return float(-np.log2(p).mean())


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: order5.py CORPUS HELDOUT")
    train = np.concatenate([text for _, _, text in corpus.load(sys.argv[1])])
    print(f"{bits_per_byte(train, np.fromfile(sys.argv[2], np.uint8)):.4f} bits per byte, order 5")
