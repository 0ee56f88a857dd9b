"""reproduce.py - whether two sets of weights answer alike: cells of tests/bench/results.tsv, side by side.

    python reproduce.py RESULTS MODEL MODEL [CONTEXT]

Of each (method, quantity) that both have, the newest row counts. Of right answers the difference is printed with its 95%
interval (Newcombe's, from two of Wilson's) and marked where that leaves out 0, which one cell in twenty does by chance.
Of bits per byte, which have no interval here, the difference is printed.
"""
import sys

QUANTILE = 1.959964


def wilson(share, n):
    square = QUANTILE ** 2 / n
    reach = QUANTILE * (share * (1 - share) / n + square / 4 / n) ** 0.5
    return (share + square / 2 - reach) / (1 + square), (share + square / 2 + reach) / (1 + square)


def newcombe(a, n, b, m):
    """The interval of b - a, two shares of n and m."""
    (low_a, high_a), (low_b, high_b) = wilson(a, n), wilson(b, m)
    return (b - a - ((b - low_b) ** 2 + (high_a - a) ** 2) ** 0.5,
            b - a + ((high_b - b) ** 2 + (a - low_a) ** 2) ** 0.5)


def cells(path, model, context):
    found = {}
    with open(path, encoding="ascii") as file:
        names = next(file).rstrip("\n").split("\t")
        for line in file:
            row = dict(zip(names, line.rstrip("\n").split("\t")))
            if row["command"] == "eval" and row["model"] == model and row["context"] == context:
                found[row["method"], row["quantity"]] = row
    return found


def main(path, first, second, context="8192"):
    one, two = cells(path, first, context), cells(path, second, context)
    both, apart = [key for key in one if key in two and key[1].startswith("accuracy.")], 0
    for method, quantity in both:
        a, b = one[method, quantity], two[method, quantity]
        share_a, share_b = float(a["median"]) / 100, float(b["median"]) / 100
        low, high = newcombe(share_a, int(a["sequences"]), share_b, int(b["sequences"]))
        mark = "" if low <= 0 <= high else "  *"
        apart += mark != ""
        print(f"{method:12} {quantity:26} {100 * share_a:6.1f} {100 * share_b:6.1f}   "
              f"{100 * (share_b - share_a):+6.1f} [{100 * low:+.1f}, {100 * high:+.1f}]{mark}")
    print(f"{len(both)} cells, {apart} apart")
    bits = [key for key in one if key in two and key[1].startswith("bits_per_byte")]
    for method, quantity in bits:
        a, b = float(one[method, quantity]["median"]), float(two[method, quantity]["median"])
        print(f"{method:12} {quantity:26} {a:.4f} {b:.4f}   {b - a:+.4f}")


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit("usage: reproduce.py RESULTS MODEL MODEL [CONTEXT]")
    main(*sys.argv[1:])
