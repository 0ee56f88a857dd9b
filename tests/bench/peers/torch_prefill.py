#!/usr/bin/env python3
"""PyTorch's attention at the prefill shapes of `cuda_kernels bench`: one layer, 131072 tokens, 20 query over 4 KV heads of 128.

Prints milliseconds and TFLOP/s of the causal half, the median of the calls after a warm-up. The whole prompt in one call
is the easiest shape there is; the engine works in chunks. Needs PyTorch with CUDA; checks nothing.
"""
import statistics
import sys

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import results

CONTEXT, HEADS, KV_HEADS, DIM, WINDOW = 131072, 20, 4, 128, 512


def random(heads, tokens):
    return torch.randn(1, heads, tokens, DIM, device="cuda", dtype=torch.bfloat16)


def time_ms(body, calls):
    body()
    times = []
    for _ in range(calls):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        body()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def report(name, flops, body, calls):
    try:
        ms = time_ms(body, calls)
        print(f"torch {name:<44} {ms:10.3f} ms {flops / ms / 1e9:7.0f} TFLOP/s", flush=True)
        results.append("torch_prefill.py", name, 1, ms, "ms")
    except Exception as error:    # a backend that does not take the shape
        print(f"torch {name:<44} not run: {str(error).splitlines()[0][:80]}", flush=True)


def causal(calls):
    q, k, v = random(HEADS, CONTEXT), random(KV_HEADS, CONTEXT), random(KV_HEADS, CONTEXT)
    flops = 4 * HEADS * DIM * CONTEXT * (CONTEXT + 1) / 2
    for name, backend in (("cudnn", SDPBackend.CUDNN_ATTENTION), ("flash", SDPBackend.FLASH_ATTENTION)):
        def body():
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        report(f"prefill_dense_131072 ({name})", flops, body, calls)


def window(rows, calls):
    """Banded attention through cuDNN has no public call in PyTorch: blocks of WINDOW rows over two blocks of keys, masked."""
    blocks = rows // WINDOW
    q = random(HEADS, rows).view(HEADS, blocks, WINDOW, DIM).transpose(0, 1)
    k, v = (random(KV_HEADS, rows + WINDOW)[0] for _ in range(2))
    own = torch.arange(WINDOW, device="cuda").view(-1, 1) + WINDOW
    at = torch.arange(2 * WINDOW, device="cuda").view(1, -1)
    mask = (at <= own) & (at > own - WINDOW)

    def body():
        keys, values = (x.unfold(1, 2 * WINDOW, WINDOW).permute(1, 0, 3, 2) for x in (k, v))
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, enable_gqa=True)
    report(f"prefill_window_{WINDOW}_rows_{rows} (sdpa, masked blocks)", 4 * HEADS * DIM * rows * WINDOW, body, calls)


def main():
    print(f"torch {torch.__version__} on {torch.cuda.get_device_name()}")
    causal(5)
    window(8192, 20)


if __name__ == "__main__":
    sys.exit(main())
