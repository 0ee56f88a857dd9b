"""Rows of tests/bench/results.tsv for the peers' programs: `python3 torch_kernels.py --results FILE` appends them.

The commit is that of the caller's checkout where there is one; the caller of another machine fills it in.
"""
import datetime
import re
import subprocess
import sys

import torch

NAMES = {"cudnn": "cudnn", "flash": "flash_attention"}
NAMES |= {name: name for name in ("flashinfer", "flashinfer_fa3", "flashinfer_transform", "flashinfer_deterministic",
                                  "flash_attention_3", "deep_gemm")}


def output_of(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "-"


def append(program, name, n, value, unit):
    """`name` as it is printed: "attention_dense (cudnn)" belongs to cudnn, what names no other library to torch."""
    if "--results" not in sys.argv:
        return
    what, _, by = name.partition(" (")
    peer = NAMES.get(by.rstrip(")"), "torch")
    row = [datetime.date.today().isoformat(), output_of("git", "rev-parse", "--short", "HEAD"), torch.cuda.get_device_name(),
           output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"), program, "paper-4b", "-",
           "131072", str(n), f"peer.{peer}.{re.sub('[^A-Za-z0-9_]', '', what)}", f"{value:.2f}", "-", "-", unit]
    with open(sys.argv[sys.argv.index("--results") + 1], "a", encoding="utf-8") as results:
        print("\t".join(row), file=results)
