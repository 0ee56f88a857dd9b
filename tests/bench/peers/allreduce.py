"""What adding up over the devices of one host takes, through NCCL: python3 allreduce.py [--results FILE].

bf16 buffers of 16 KB to 256 MB, as the partial sums of a step that is divided among devices. Each size is warmed, then
timed over many calls in one stream, and in a CUDA graph of 64 calls, as a recorded step has them. The last two lines are
what sim/devices.json calls link_s and link_bytes_per_s: a line through the times, of which an all-reduce over n
devices sends 2 (n - 1) / n of its bytes. Of each size the faster of the two counts.
"""
import datetime
import os
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from results import output_of

CALLS = 64


def timed(run, repeats):
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    run()
    torch.cuda.synchronize()
    times = []
    for _ in range(repeats):
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / CALLS)
    return sorted(times)[repeats // 2]


def measure(size, rank):
    data = torch.ones(size // 2, dtype=torch.bfloat16, device="cuda") * 2.0**-64
    repeats = 20 if size <= 1 << 22 else 5

    def eager():
        for _ in range(CALLS):
            dist.all_reduce(data)

    eager_us = timed(eager, repeats)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        eager()
    graph_us = timed(graph.replay, repeats)
    return eager_us, graph_us


def line(sizes, times):
    """Least squares of relative errors: latency and seconds per byte."""
    rows = torch.tensor([[1 / t, s / t] for s, t in zip(sizes, times)], dtype=torch.float64)
    return torch.linalg.lstsq(rows, torch.ones(len(sizes), 1, dtype=torch.float64)).solution.flatten().tolist()


def work(rank, n):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29411", "NCCL_NVLS_ENABLE": "0"}
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", rank=rank, world_size=n)
    sizes, fastest = [1 << i for i in range(14, 29, 2)], []
    for size in sizes:
        eager_us, graph_us = measure(size, rank)
        fastest.append(min(eager_us, graph_us))
        if rank == 0:
            print(f"{size:>10} bytes {eager_us:9.2f} us, in a graph {graph_us:9.2f} us", flush=True)
            append(f"allreduce.{size}", n, eager_us, "us")
            append(f"allreduce_graph.{size}", n, graph_us, "us")
    if rank == 0:
        link_us, us_per_byte = line(sizes, fastest)
        rate = 2 * (n - 1) / n / us_per_byte * 1e6
        print(f"link_s {link_us * 1e-6:.3g}, link_bytes_per_s {rate:.4g}")
        append("allreduce.link_s", n, link_us, "us")
        append("allreduce.link", n, rate * 1e-9, "GB/s")
    dist.destroy_process_group()


def append(quantity, n, value, unit):
    if "--results" in sys.argv:
        row = [datetime.date.today().isoformat(), output_of("git", "rev-parse", "--short", "HEAD"), torch.cuda.get_device_name(),
               output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"), "allreduce.py", "-", "-", "-",
               str(n), f"peer.nccl.{quantity}", f"{value:.4g}", "-", "-", unit]
        with open(sys.argv[sys.argv.index("--results") + 1], "a", encoding="utf-8") as results:
            print("\t".join(row), file=results)


if __name__ == "__main__":
    devices = torch.cuda.device_count()
    if devices < 2:
        sys.exit("allreduce.py: one device has nobody to add up with")
    multiprocessing.spawn(work, (devices,), devices)
