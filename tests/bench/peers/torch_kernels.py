#!/usr/bin/env python3
"""PyTorch's kernels at the shapes of `cuda_kernels bench`, timed in the same manner.

Each row is captured in a CUDA graph that rotates over inputs larger than L2; the median of 21 replays is printed in
microseconds per call. Needs PyTorch with CUDA; prints nothing else and checks nothing: correctness is not its concern.
`torch_kernels.py [--results FILE] [WORD...]` runs the groups named (linear, dense, sparse, index_scores, top_k, window,
blocks) or all.
"""
import statistics
import sys

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import results

CONTEXT, TOP_K, HEADS, KV_HEADS, DIM, ROTATE_BYTES = 131072, 2048, 20, 4, 128, 256 << 20


def random(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def time_graph(body, calls):
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for i in range(3):
            body(i)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(calls):
            body(i)
    times = []
    for i in range(23):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) * 1000 / calls)
    return statistics.median(times[2:])


def report(name, n, body, calls):
    try:
        us = time_graph(body, calls)
        print(f"torch {name:<40} {n:4d} {us:10.2f} us", flush=True)
        results.append("torch_kernels.py", name, n, us, "us")
    except Exception as error:    # a backend that does not take the shape
        print(f"torch {name:<40} {n:4d} not run: {str(error).splitlines()[0][:80]}", flush=True)


def linear(name, n_in, n_out, rows):
    sets = 1 + ROTATE_BYTES // (n_in * n_out * 2)
    weights = [random(n_out, n_in) * 0.02 for _ in range(sets)]
    x = random(rows, n_in)
    report(name, rows, lambda i: F.linear(x, weights[i % sets]), 24)


def dense(n):
    q = random(n, HEADS, 1, DIM)
    k, v = random(n, KV_HEADS, CONTEXT, DIM), random(n, KV_HEADS, CONTEXT, DIM)
    for name, backend in (("flash", SDPBackend.FLASH_ATTENTION), ("cudnn", SDPBackend.CUDNN_ATTENTION)):
        def body(_):
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        report(f"attention_dense ({name})", n, body, 6 if n == 1 else 3)


def sparse(n):
    cache = random(n * CONTEXT, 2, KV_HEADS, DIM)
    q = random(n, HEADS, 1, DIM)
    lists = 64 if n == 1 else 8
    base = (torch.arange(n, device="cuda") * CONTEXT).view(n, 1)
    index = [(torch.rand(n, CONTEXT, device="cuda").topk(TOP_K).indices + base).flatten() for _ in range(lists)]

    def body(i):
        kv = cache[index[i % lists]].view(n, TOP_K, 2, KV_HEADS, DIM)
        return F.scaled_dot_product_attention(q, kv[:, :, 0].transpose(1, 2), kv[:, :, 1].transpose(1, 2), enable_gqa=True)
    report("attention_2048_tokens (gather + sdpa)", n, body, 32)


def index_scores(n):
    copies = 1 + ROTATE_BYTES // (n * CONTEXT * 256)
    keys = [random(n, CONTEXT, DIM) for _ in range(copies)]
    q = random(n, DIM, 1)
    report("index_bf16 (bmm)", n, lambda i: torch.bmm(keys[i % copies], q), 24 if n <= 8 else 8)


def top_k(n):
    copies = 1 + (32 << 20) // (n * CONTEXT * 4)
    scores = [torch.randn(n, CONTEXT, device="cuda") for _ in range(copies)]
    report("top_2048_of_131072", n, lambda i: torch.topk(scores[i % copies], TOP_K, sorted=False), 32)


def window(n):
    sets = 1 + ROTATE_BYTES // (n * 512 * 2048)
    q = random(n, HEADS, 1, DIM)
    k = [random(n, KV_HEADS, 512, DIM) for _ in range(sets)]
    v = [random(n, KV_HEADS, 512, DIM) for _ in range(sets)]
    report("attention_window_512 (sdpa)", n,
           lambda i: F.scaled_dot_product_attention(q, k[i % sets], v[i % sets], enable_gqa=True), 32)


def blocks(n):
    scores = torch.randn(n, 4, 1024, device="cuda")
    report("top_16_of_1024_blocks_4_sets", n, lambda i: torch.topk(scores, 16, sorted=False), 32)


def linears(rows):
    linear("linear_ffn_2560_15360", 2560, 15360, rows)
    linear("linear_qkv_2560_3584", 2560, 3584, rows)
    linear("linear_down_7680_2560", 7680, 2560, rows)
    linear("linear_head_2560_131072", 2560, 131072, rows)


def main():
    groups = {"linear": linears, "dense": dense, "sparse": sparse, "index_scores": index_scores, "top_k": top_k,
              "window": window, "blocks": blocks}
    words = [w for before, w in zip(sys.argv, sys.argv[1:]) if "--results" not in (before, w)]
    for word in words:
        if word not in groups:
            print(f"torch_kernels.py: \"{word}\" is none of {', '.join(groups)}", file=sys.stderr)
            return 2
    print(f"torch {torch.__version__} on {torch.cuda.get_device_name()}")
    for name, body in groups.items():
        for n in (1, 8, 16, 32, 64) if name == "linear" else (1, 8, 32):
            if name in words or not words:
                body(n)
                torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    sys.exit(main())
