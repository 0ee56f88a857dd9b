#!/usr/bin/env python3
"""Public kernels faster than PyTorch's own at the shapes of `cuda_kernels bench`: checked first, then timed in the same manner.

- FlashInfer's decode attention from a paged cache (tensor cores, the FA2 kernel it picks by itself, and its FA3 kernel):
  dense over pages of 64 tokens, sparse with pages of one token and the selected tokens as page table, a window as the pages
  that hold it, blocks of 128 with one page table for each head. Its plan is made before the graph, for the exact lengths: what
  it takes is not in the time. FlashInfer's kernel without tensor cores has no groups of 5 query heads.
- FlashAttention-3 in the same places, through flash_attn_with_kvcache with its own choice of splits, and over a whole prompt.
- FlashInfer's top_k and top_k_ragged_transform: as they come (any order, ties anyhow), and the latter deterministic with the
  lower index first among equals, which is what ours always does.
- FlashInfer's FA3 kernel over a whole causal prompt.
- DeepGEMM's fp8_paged_mqa_logits and fp8_mqa_logits: DeepSeek's indexer, 64 heads of 128 with ReLU and weights, keys of 132 bytes.
- The same for a prompt's rows, with top_k_ragged_transform behind it, over the scores of as many rows as ours takes at once.

Every result is compared with PyTorch in fp32 at the timed shape; a peer that fails has no time. A row is the median of 21
replays of a CUDA graph whose calls rotate over inputs larger than L2; in `rows` and `prefill` it is the median of single calls
between events, launches included. `public_kernels.py [--results FILE] [WORD...]` runs the groups named (dense, sparse, window,
blocks, top_k, index, rows, prefill) and, of attention's libraries, those named (flashinfer, flashinfer_fa3, flash_attention_3).
A library that is not there is named and skipped.

Not here, and why: FlashMLA's sparse kernels take one KV head of 576 (MLA), none of 4 heads of 128. DeepGEMM's indexer takes 32
or 64 heads: not the single head of CLSA.
"""
import contextlib
import importlib
import sys

import torch

import results
from torch_kernels import CONTEXT, DIM, HEADS, KV_HEADS, ROTATE_BYTES, TOP_K, random, time_graph
from torch_prefill import time_ms

INDEX_HEADS, PAGE, BLOCK, WINDOW = 64, 64, 128, 512


def library(name):
    try:
        return importlib.import_module(name)
    except Exception as error:
        print(f"{name}: not there ({str(error).splitlines()[0][:120]})", flush=True)
        return None


def check(got, want, tolerance):
    """Raises unless every value is within `tolerance` of the largest wanted: NaN is not."""
    if got.shape != want.shape:
        raise AssertionError(f"WRONG: shape {list(got.shape)}, not {list(want.shape)}")
    error = (got.float() - want.float()).abs().max().item() / max(want.float().abs().max().item(), 1e-30)
    if not error <= tolerance:
        raise AssertionError(f"WRONG: off by {error:.2e} of the largest value")
    return f"error {error:.1e}"


def report(name, n, body, calls, checked, unit="us"):
    """`body(i)` is one call; `checked()` compares call 0 with PyTorch and raises or says how far it was off."""
    try:
        found = checked()
        time = time_graph(body, calls) if unit == "us" else time_ms(lambda: body(0), calls)
        print(f"{name:<52} {n:4d} {time:10.2f} {unit}  {found}", flush=True)
        results.append("public_kernels.py", name, n, time, unit)
    except Exception as error:    # a kernel that does not take the shape, or a wrong one
        print(f"{name:<52} {n:4d} not run: {(str(error) or repr(error)).splitlines()[0][:140]}", flush=True)


# Attention of one row in fp32: q [heads, DIM], k and v [tokens, kv heads, DIM].
def attention_reference(q, k, v):
    q = q.float().view(KV_HEADS, HEADS // KV_HEADS, DIM)
    weights = torch.softmax(torch.einsum("hgd,thd->hgt", q, k.float()) * DIM ** -0.5, dim=-1)
    return torch.einsum("hgt,thd->hgd", weights, v.float()).reshape(HEADS, DIM)


class Decode:
    """FlashInfer's decode over pages: `pages` [rows, pages of a row], all full, made once for each set of indices."""
    workspace = None

    def __init__(self, pages, page_tokens, backend, heads, kv_heads):
        from flashinfer.decode import BatchDecodeWithPagedKVCacheWrapper as Wrapper
        if Decode.workspace is None:
            Decode.workspace = torch.zeros(256 << 20, dtype=torch.uint8, device="cuda")
        rows, row_pages = pages.shape
        self.wrapper = Wrapper(Decode.workspace, "NHD", use_tensor_cores=True, backend=backend)
        self.wrapper.plan(torch.arange(0, rows * row_pages + 1, row_pages, dtype=torch.int32), pages.flatten().int().contiguous(),
                          torch.full((rows,), page_tokens, dtype=torch.int32), heads, kv_heads, DIM, page_tokens,
                          q_data_type=torch.bfloat16, kv_data_type=torch.bfloat16)

    def __call__(self, q, cache):
        return self.wrapper.run(q, cache)


class FlashAttention3:
    """The same through FlashAttention-3, which plans in each call: `flash_attn_interface` is what its package installs."""

    def __init__(self, pages, page_tokens):
        from flash_attn_interface import flash_attn_with_kvcache
        self.attend, self.table = flash_attn_with_kvcache, pages.int().contiguous()
        self.lengths = torch.full((len(pages),), pages.shape[1] * page_tokens, dtype=torch.int32, device="cuda")

    def __call__(self, q, cache):
        k, v = cache if isinstance(cache, tuple) else cache.unbind(1)
        return self.attend(q.unsqueeze(1), k, v, cache_seqlens=self.lengths, page_table=self.table).squeeze(1)


def attention(peer, pages, page_tokens, heads=HEADS, kv_heads=KV_HEADS):
    if peer == "flash_attention_3":
        return FlashAttention3(pages, page_tokens)
    return Decode(pages, page_tokens, "fa3" if peer == "flashinfer_fa3" else "auto", heads, kv_heads)


PEERS = ("flashinfer", "flashinfer_fa3", "flash_attention_3")


def dense(n):
    cache = random(n * CONTEXT // PAGE, 2, PAGE, KV_HEADS, DIM)
    q = random(n, HEADS, DIM)
    pages = torch.randperm(n * CONTEXT // PAGE, device="cuda").view(n, -1)
    last = cache[pages[-1]]
    want = attention_reference(q[-1], last[:, 0].reshape(CONTEXT, KV_HEADS, DIM), last[:, 1].reshape(CONTEXT, KV_HEADS, DIM))
    del last
    for peer in wanted(PEERS):
        with named(f"attention_dense ({peer})", n):
            attend = attention(peer, pages, PAGE)
            report(f"attention_dense ({peer})", n, lambda _: attend(q, cache), 6 if n == 1 else 3,
                   lambda: check(attend(q, cache)[-1], want, 2e-2))


def sparse(n):
    cache = random(n * CONTEXT, 2, 1, KV_HEADS, DIM)    # pages of one token
    q = random(n, HEADS, DIM)
    lists = 64 if n == 1 else 8
    base = (torch.arange(n, device="cuda") * CONTEXT).view(n, 1)
    tokens = [torch.rand(n, CONTEXT, device="cuda").topk(TOP_K).indices.sort().values + base for _ in range(lists)]
    last = cache[tokens[0][-1]]
    want = attention_reference(q[-1], last[:, 0, 0], last[:, 1, 0])
    for peer in wanted(PEERS):
        with named(f"attention_2048_tokens ({peer})", n):
            attend = [attention(peer, t, 1) for t in tokens]

            def checked():
                return check(attend[0](q, cache)[-1], want, 2e-2)
            report(f"attention_2048_tokens ({peer})", n, lambda i: attend[i % lists](q, cache), 32 if n > 1 else 64, checked)
            report(f"attention_2048_tokens_L2_warm ({peer})", n, lambda _: attend[0](q, cache), 32, checked)


def window(n):
    sets = 1 + ROTATE_BYTES // (n * WINDOW * 2048)
    caches = [random(n * WINDOW // PAGE, 2, PAGE, KV_HEADS, DIM) for _ in range(sets)]
    q = random(n, HEADS, DIM)
    pages = torch.randperm(n * WINDOW // PAGE, device="cuda").view(n, -1)
    last = caches[0][pages[-1]]
    want = attention_reference(q[-1], last[:, 0].reshape(WINDOW, KV_HEADS, DIM), last[:, 1].reshape(WINDOW, KV_HEADS, DIM))
    for peer in wanted(PEERS):
        with named(f"attention_window_512 ({peer})", n):
            attend = attention(peer, pages, PAGE)
            report(f"attention_window_512 ({peer})", n, lambda i: attend(q, caches[i % sets]), 32,
                   lambda: check(attend(q, caches[0])[-1], want, 2e-2))


def blocks(n):
    """16 blocks for each KV head: a head of a page is a page of its own, and a row's KV head a row with 5 query heads."""
    cache = random(n * CONTEXT // BLOCK * 2 * KV_HEADS, BLOCK, 1, DIM)    # [block, K or V, head] of tokens
    k, v = cache.view(-1, 2, KV_HEADS, BLOCK, 1, DIM).unbind(1)
    q = random(n * KV_HEADS, HEADS // KV_HEADS, DIM)
    lists = 64 if n == 1 else 8
    heads = torch.arange(KV_HEADS, device="cuda").view(1, KV_HEADS, 1)
    base = (torch.arange(n, device="cuda") * (CONTEXT // BLOCK)).view(n, 1, 1)
    chosen = [torch.rand(n, KV_HEADS, CONTEXT // BLOCK, device="cuda").topk(TOP_K // BLOCK).indices.sort().values + base
              for _ in range(lists)]
    # The heads of K lie 8 apart from one block to the next, in steps of one head: page = 8 * block + head, V 4 behind K.
    pages = [(2 * KV_HEADS * c + heads).view(n * KV_HEADS, -1) for c in chosen]
    kv = (cache[: -KV_HEADS], cache[KV_HEADS:])
    keys, values = (torch.stack([x[chosen[0][-1, h], h, :, 0].reshape(TOP_K, DIM) for h in range(KV_HEADS)], 1) for x in (k, v))
    want = attention_reference(q[-KV_HEADS:].reshape(HEADS, DIM), keys, values)
    for peer in wanted(PEERS):
        with named(f"attention_16_blocks_4_sets ({peer})", n):
            attend = [attention(peer, p, BLOCK, HEADS // KV_HEADS, 1) for p in pages]
            report(f"attention_16_blocks_4_sets ({peer})", n, lambda i: attend[i % lists](q, kv), 32 if n > 1 else 64,
                   lambda: check(attend[0](q, kv)[-KV_HEADS:].reshape(HEADS, DIM), want, 2e-2))


def check_selection(scores, k, got, lowest_first):
    """The chosen scores of every row are the largest there are; with `lowest_first`, the tokens are the stable sort's."""
    got = got.long().sort().values
    if got.shape != (scores.shape[0], k) or (got[:, 1:] == got[:, :-1]).any() or (got < 0).any() or (got >= scores.shape[1]).any():
        raise AssertionError("WRONG: a token twice, or none")
    if not torch.equal(scores.gather(1, got).sort(descending=True).values, scores.topk(k).values.sort(descending=True).values):
        raise AssertionError("WRONG: not the largest scores")
    if lowest_first and not torch.equal(got, scores.sort(dim=1, descending=True, stable=True).indices[:, :k].sort().values):
        raise AssertionError("WRONG: not the lowest indices among equals")
    return "exact"


def top_k(n):
    from flashinfer import topk
    for name, units, k, sets in (("top_2048_of_131072", CONTEXT, TOP_K, 1), ("top_16_of_1024_blocks_4_sets", CONTEXT // BLOCK, 16, 4),
                                 ("top_128_of_8192_pages_20_sets", CONTEXT // 16, TOP_K // 16, HEADS)):
        rows = n * sets
        copies = 1 + (32 << 20) // (rows * units * 4)
        scores = [torch.randn(rows, units, device="cuda") for _ in range(copies)]
        ties = (scores[0] * 64).round() / 64    # many equal scores
        offsets = torch.zeros(rows, dtype=torch.int32, device="cuda")
        lengths = torch.full((rows,), units, dtype=torch.int32, device="cuda")
        for peer, select in (
                ("flashinfer", lambda x: topk.top_k(x, k)[1]),
                ("flashinfer_transform", lambda x: topk.top_k_ragged_transform(x, offsets, lengths, k)),
                ("flashinfer_deterministic", lambda x: topk.top_k_ragged_transform(x, offsets, lengths, k, deterministic=True,
                                                                                    tie_break=topk.TopKTieBreak.SMALL))):
            def checked():
                for x in (scores[0], ties):
                    found = check_selection(x, k, select(x), peer == "flashinfer_deterministic")
                return found
            report(f"{name} ({peer})", n, lambda i: select(scores[i % copies]), 32, checked)


def fp8(x):
    """Rows of `x` as fp8 and the scale of each, as a cache has them."""
    scale = x.abs().float().amax(-1).clamp(1e-4) / 448
    return (x / scale.unsqueeze(-1)).to(torch.float8_e4m3fn), scale


def index_reference(q, keys, scale, weights):
    """q [heads, DIM], keys [tokens, DIM] of fp8, scale [tokens], weights [heads]: the scores [tokens]."""
    return (torch.relu(q.float() @ keys.float().T) * weights.view(-1, 1)).sum(0) * scale


def index(n):
    deep_gemm = library("deep_gemm")
    if not deep_gemm:
        return
    row_pages, page_bytes = CONTEXT // PAGE, PAGE * (DIM + 4)
    copies = 1 + ROTATE_BYTES // (n * CONTEXT * (DIM + 4))
    caches = torch.empty(copies, n * row_pages, page_bytes, dtype=torch.uint8, device="cuda")
    for cache in caches:    # the keys of a page, then their scales
        keys, scale = fp8(random(n * row_pages, PAGE, DIM))
        cache[:, :PAGE * DIM] = keys.view(torch.uint8).view(-1, PAGE * DIM)
        cache[:, PAGE * DIM:] = scale.view(torch.uint8)
    q = random(n, 1, INDEX_HEADS, DIM).to(torch.float8_e4m3fn)
    weights = torch.randn(n, INDEX_HEADS, device="cuda")
    lengths = torch.full((n, 1), CONTEXT, dtype=torch.int32, device="cuda")
    table = torch.randperm(n * row_pages, device="cuda").view(n, -1).int()
    plan = deep_gemm.get_paged_mqa_logits_metadata(lengths, PAGE, deep_gemm.get_num_sms())

    def body(i):
        cache = caches[i % copies].view(n * row_pages, PAGE, 1, DIM + 4)
        return deep_gemm.fp8_paged_mqa_logits(q, cache, weights, lengths, table, plan, CONTEXT, False)
    last = caches[0][table[-1].long()]
    want = index_reference(q[-1, 0], last[:, :PAGE * DIM].reshape(-1, DIM).view(torch.float8_e4m3fn),
                           last[:, PAGE * DIM:].contiguous().view(torch.float32).flatten(), weights[-1])
    report("index_dsa_64_heads_fp8 (deep_gemm)", n, body, 24 if n <= 8 else 8, lambda: check(body(0)[-1], want, 1e-3))


def rows():
    """Scores and selection of a prompt's rows: eight parts of the prompt, each at the context in its middle, as `rows_dsa_256_mb`."""
    deep_gemm = library("deep_gemm")
    if not deep_gemm:
        return
    from flashinfer import topk
    parts, most_rows, buffer_bytes = 8, 8192, 256 << 20
    keys, scale = fp8(random(CONTEXT, DIM))
    score_ms = both_ms = 0.0
    for part in range(parts):
        context = CONTEXT // parts * part + CONTEXT // parts // 2
        n = min(buffer_bytes // 4 // context, most_rows, context)
        q = random(n, INDEX_HEADS, DIM).to(torch.float8_e4m3fn)
        weights = torch.randn(n, INDEX_HEADS, device="cuda")
        begin = torch.zeros(n, dtype=torch.int32, device="cuda")
        end = torch.arange(context - n + 1, context + 1, device="cuda").int()

        def score():    # what lies behind a row's end is whatever it was
            return deep_gemm.fp8_mqa_logits(q, (keys[:context], scale[:context]), weights, begin, end, False, context)

        def both():
            return topk.top_k_ragged_transform(score(), begin, end, TOP_K)
        check(score()[-1], index_reference(q[-1], keys[:context], scale[:context], weights[-1]), 1e-3)
        behind = torch.arange(context, device="cuda") >= end[-16:].view(-1, 1)
        check_selection(score()[-16:].masked_fill(behind, float("-inf")), TOP_K, both()[-16:], False)
        score_ms += CONTEXT / parts / n * time_ms(score, 11)
        both_ms += CONTEXT / parts / n * time_ms(both, 11)
    for name, ms in (("rows_dsa_256_mb_scores_only (deep_gemm)", score_ms), ("rows_dsa_256_mb (deep_gemm)", both_ms)):
        print(f"{name:<52} {1:4d} {ms:10.2f} ms  exact", flush=True)
        results.append("public_kernels.py", name, 1, ms, "ms")


def prefill():
    q, k, v = (random(CONTEXT, h, DIM) for h in (HEADS, KV_HEADS, KV_HEADS))

    def flashinfer_fa3():
        from flashinfer.prefill import BatchPrefillWithRaggedKVCacheWrapper as Wrapper
        wrapper = Wrapper(torch.zeros(256 << 20, dtype=torch.uint8, device="cuda"), "NHD", backend="fa3")
        span = torch.tensor([0, CONTEXT], dtype=torch.int32)
        wrapper.plan(span, span, HEADS, KV_HEADS, DIM, causal=True, q_data_type=torch.bfloat16, kv_data_type=torch.bfloat16)
        return lambda: wrapper.run(q, k, v)

    def flash_attention_3():
        from flash_attn_interface import flash_attn_func
        return lambda: flash_attn_func(q[None], k[None], v[None], causal=True)[0]
    by_name = {"flashinfer_fa3": flashinfer_fa3, "flash_attention_3": flash_attention_3}
    for peer in wanted(by_name):
        with named(f"prefill_dense_131072 ({peer})", 1):
            attend = by_name[peer]()

            def checked():
                got = attend()
                for row in (0, 1000, CONTEXT - 1):
                    found = check(got[row], attention_reference(q[row], k[:row + 1], v[:row + 1]), 2e-2)
                return found
            report(f"prefill_dense_131072 ({peer})", 1, lambda _: attend(), 5, checked, "ms")


@contextlib.contextmanager
def named(name, n):
    """What a plan says against a shape is said under the name of the row."""
    try:
        yield
    except Exception as error:
        print(f"{name:<52} {n:4d} not run: {(str(error) or repr(error)).splitlines()[0][:140]}", flush=True)


def words():
    return [w for before, w in zip(sys.argv, sys.argv[1:]) if "--results" not in (before, w)]


def wanted(names):
    """Those of `names` that the command line has, or all."""
    return [name for name in names if name in words()] or list(names)


def main():
    by_rows = {"dense": dense, "sparse": sparse, "window": window, "blocks": blocks, "top_k": top_k, "index": index}
    whole = {"rows": rows, "prefill": prefill}
    for word in words():
        if word not in by_rows | whole and word not in PEERS:
            print(f"public_kernels.py: \"{word}\" is none of {', '.join(by_rows | whole)}, {', '.join(PEERS)}", file=sys.stderr)
            return 2
    torch.manual_seed(1)
    print(f"torch {torch.__version__} on {torch.cuda.get_device_name()}, "
          + ", ".join(f"{name} {getattr(library(name), '__version__', 'not there')}" for name in ("flashinfer", "deep_gemm")), flush=True)
    for group in wanted(by_rows | whole):
        for n in (1, 8, 32) if group in by_rows else (None,):
            with named(group, n or 1):
                by_rows[group](n) if n else whole[group]()
            torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    sys.exit(main())
