"""What a GPU's own counters say of each row of `cuda_kernels bench`: why a kernel is as far from its floor as it is.

kernel_counters.py [--results FILE] [--commit ID] [--driver VERSION] [--keep FOLDER] BINARY ROW...
kernel_counters.py [--results FILE] [--commit ID] [--driver VERSION] --from FOLDER

Runs BINARY (cuda_kernels) under ncu, a run for each ROW (part of a row's name), one call of every row, caches cold,
clocks as they are; or reads what --keep left. Of a row that launches several kernels the longest is told. Percent of
what the chip could do at most: `dram` of device memory's rate, `tensor` of the tensor cores' cycles, `issue` of the
cycles in which a scheduler issued, `warps` of the warps a multiprocessor can hold; `stall`: how many warps wait for
what most wait for (the row's unit) whenever one issues. Exit 2: ncu failed, or of a row its calls could
not be told apart.
"""
import argparse
import csv
import datetime
import pathlib
import re
import subprocess
import sys
import tempfile

SECTIONS = ["SpeedOfLight", "WarpStateStats", "Occupancy", "LaunchStats", "ComputeWorkloadAnalysis", "SchedulerStats"]
PERCENT = {"dram": "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed",
           "tensor": "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active",
           "issue": "smsp__issue_active.avg.pct_of_peak_sustained_active",
           "warps": "sm__warps_active.avg.pct_of_peak_sustained_active"}
TIME, STALL = "gpu__time_duration.sum", re.compile(r"smsp__average_warps_issue_stalled_(\w+)_per_issue_active\.ratio")
US = {"ns": 1e-3, "us": 1, "ms": 1e3, "s": 1e6}


def run(binary, row, folder):
    command = ["ncu", "--profile-from-start", "off", "--clock-control", "none", "--csv", "--page", "raw"]
    command += ["--log-file", f"{folder}/ncu_{row}.csv"]
    for section in SECTIONS:
        command += ["--section", section]
    with open(folder / f"ncu_{row}.out", "w", encoding="utf-8") as out:
        command += [binary, "bench", row]
        try:
            status = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, check=False).returncode
        except OSError as error:
            print(f"kernel_counters.py: ncu: {error.strerror}; it comes with the CUDA toolkit", file=sys.stderr)
            sys.exit(2)
    if status:
        print(f"ncu of {row}: exit {status}: {(folder / f'ncu_{row}.out').read_text()[-300:]}", file=sys.stderr)
        sys.exit(2)


def number(text):
    return float(text.replace(",", "") or 0)


def calls_of(path):
    """Each profiled call: microseconds, percents and stalls. The first is the read stream's."""
    lines = list(csv.reader(line for line in open(path, encoding="utf-8", errors="replace") if line.startswith('"')))
    if len(lines) < 4:
        print(f"{path}: no calls", file=sys.stderr)
        sys.exit(2)
    head, units = lines[0], lines[1]
    at = {name: i for i, name in enumerate(head)}
    waits = {m[1]: i for name, i in at.items() if (m := STALL.fullmatch(name)) and m[1] != "selected"}
    for cells in lines[3:]:
        yield {"us": number(cells[at[TIME]]) * US[units[at[TIME]]],
               "percent": {what: number(cells[at[name]]) for what, name in PERCENT.items() if name in at},
               "stalls": {what: number(cells[i]) for what, i in waits.items()}}


def rows_of(path):
    """What the benchmark printed: the device, then (name, sequences) in the order of the calls."""
    lines = open(path, encoding="utf-8", errors="replace").read().splitlines()
    found = (re.match(r"(\w+) +(\d+) +[\d.]+ us", line) for line in lines)
    return lines[0].split(",")[0], [(m[1], int(m[2])) for m in found if m]


def report(folder, stem, args, out):
    device, rows = rows_of(folder / f"{stem}.out")
    calls = list(calls_of(folder / f"{stem}.csv"))
    if not rows or len(calls) % len(rows):
        print(f"{stem}: {len(calls)} calls of {len(rows)} rows: left out", file=sys.stderr)
        return False
    each = len(calls) // len(rows)
    for i, (name, sequences) in enumerate(rows):
        call = max(calls[i * each:(i + 1) * each], key=lambda c: c["us"])
        stall = max(call["stalls"], key=call["stalls"].get)
        values = [("us", call["us"], "us")] + [(what, value, "percent") for what, value in call["percent"].items()]
        values.append(("stall", call["stalls"][stall], stall))
        print(f"{name:44} {sequences:4}", *(f"{what} {value:.4g}" for what, value, _ in values), stall)
        for what, value, unit in values if out else []:
            print(datetime.date.today(), args.commit, device, args.driver, "kernel_counters.py", "paper-4b", "-",
                  131072, sequences, f"counter.{name}.{what}", f"{value:.4g}", "-", "-", unit, sep="\t", file=out)
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", help="rows are appended here")
    parser.add_argument("--commit", default="-")
    parser.add_argument("--driver", default="-")
    parser.add_argument("--keep", help="what ncu writes stays in this folder")
    parser.add_argument("--from", dest="kept", help="such a folder")
    parser.add_argument("command", nargs="*", metavar="BINARY ROW...")
    args = parser.parse_args()
    if bool(args.kept) == (len(args.command) > 1):
        parser.error("a binary and rows, or --from a folder")
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(args.kept or args.keep or temporary)
        if not args.kept:
            folder.mkdir(parents=True, exist_ok=True)
        for row in args.command[1:]:
            run(args.command[0], row, folder)
        out = open(args.results, "a", encoding="utf-8") if args.results else None
        stems = [f"ncu_{row}" for row in args.command[1:]] or sorted(path.stem for path in folder.glob("ncu_*.csv"))
        if not stems:
            parser.error(f"{folder}: no ncu_*.csv")
        if not all([report(folder, stem, args, out) for stem in stems]):
            sys.exit(2)


if __name__ == "__main__":
    main()
