"""train.py - one phase of training of one model.

    python train.py dense   --backbone yoco --corpus DIR/corpus.xz --heldout DIR/heldout.txt --out RUN --seconds 700
    python train.py distill --backbone yoco ... --seconds 130
    python train.py joint   --backbone yoco ... --seconds 130

dense: next-byte loss, from short documents with many questions to long ones. distill: only the indexers, backbone
frozen. joint: everything, with the backbone's sparse attention in the loop, next-byte loss + 0.1 distillation.

A phase lasts --seconds of training, or --steps (then the same seed gives the same run, but for the GPU's rounding). It
goes on from RUN/state.pt if that is of the same phase, and begins with its weights otherwise.
--stop-after ends the process in time, with its state saved. RUN/log.jsonl keeps what was run and how it went.
"""
import argparse
import json
import os
import sys
import time

import numpy as np
import torch

import corpus
import data
import distill
import evaluate
import model as backbone
from optimizer import Optimizer

STARTED = time.monotonic()
SAVE_EVERY_SECONDS = 60
LOG_EVERY_STEPS = 50
WARM_UP_STEPS = 100
KD_WEIGHT = 0.1             # of distillation in joint training, as in the paper
PHASES = {
    # rates; share of the phase after which they fall to a twentieth; [(share of the phase, tokens per document)]
    "dense": ({"matrix": 0.02, "embedding": 0.01, "head": 0.003, "gain": 0.004, "index": 0.0}, 0.65,
              [(0.15, 512), (0.45, 2048), (1.0, 8192)]),
    "distill": ({"index": 0.003}, 0.5, [(1.0, 8192)]),
    "joint": ({"matrix": 0.002, "embedding": 0.001, "head": 0.0003, "gain": 0.0004, "index": 0.001}, 0.3,
              [(1.0, 8192)]),
}
CASES = {"yoco": [("clsa", 256), ("clsa", 64), ("clsa-block", 256), ("yoco-token", 256)],
         "transformer": [("token", 256), ("token", 64), ("block", 256), ("indexcache", 256)]}


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phase", choices=[*PHASES, "evaluate"])
    parser.add_argument("--backbone", choices=["yoco", "transformer"], required=True)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--heldout", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--seconds", type=float, default=0)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--stop-after", type=float, default=1e9, help="seconds after the start of this process")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=131072, help="per step of the dense phase")
    parser.add_argument("--documents", type=int, default=4, help="per step of distillation and joint training")
    parser.add_argument("--rows", type=int, default=1024, help="of a document, sampled for distillation")
    parser.add_argument("--workers", type=int, default=12)
    parser.add_argument("--samples", type=int, default=200, help="per task in the evaluation at the end; 0: none")
    parser.add_argument("--cases", type=int, default=9, help="sparse methods in that evaluation, at most")
    parser.add_argument("--sparse-samples", type=int, default=24, help="per task and sparse method")
    parser.add_argument("--lengths", default="", help="instead of the phase's: SHARE:TOKENS,...")
    parser.add_argument("--decay-from", type=float, default=-1, help="share of the phase, instead of the phase's own")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    if args.phase != "evaluate" and not args.seconds and not args.steps:
        parser.error("give --seconds or --steps")
    return args


class Log:
    def __init__(self, path):
        self.file = open(path, "a", encoding="utf-8")

    def write(self, **fields):
        line = json.dumps(fields)
        self.file.write(line + "\n")
        self.file.flush()
        print(line, flush=True)


def save_whole(path, value):
    torch.save(value, path + ".part")
    os.replace(path + ".part", path)


class Run:
    """The state of one phase: weights, optimizer, where it stands."""

    def __init__(self, args):
        self.args, self.g = args, backbone.Geometry(args.backbone)
        self.rates, self.decay_from, self.lengths = PHASES[args.phase]
        if args.decay_from >= 0:
            self.decay_from = args.decay_from
        if args.lengths:
            self.lengths = [(float(a), int(b)) for a, b in (one.split(":") for one in args.lengths.split(","))]
        weights = self.load_weights()
        train_index, train_rest = args.phase != "dense", args.phase != "distill"
        self.names = [name for name in weights if (train_index if backbone.is_index(name) else train_rest)]
        for name, w in weights.items():
            weights[name] = w.to(args.device).requires_grad_(name in self.names)
        self.model = backbone.Model(self.g, weights, compiled=args.device == "cuda" and args.phase == "dense",
                                    dtype=torch.bfloat16 if args.device == "cuda" else torch.float32)
        rates = dict(self.rates)
        if self.g.yoco and "embedding" in rates:
            rates["embedding"] /= self.g.hidden ** 0.5      # the embeddings are that much smaller
        self.optimizer = Optimizer(weights, self.names, rates)
        self.step, self.seconds = 0, 0.0
        self.resume()

    def path(self, name):
        return os.path.join(self.args.out, name)

    def load_weights(self):
        if self.args.phase == "dense":
            return backbone.init(self.g, self.args.seed)
        if not os.path.exists(self.path("state.pt")):
            sys.exit(f"train.py: {self.path('state.pt')}: missing; run the dense phase first")
        saved = torch.load(self.path("state.pt"), map_location="cpu")["weights"]
        return {name: w.detach() for name, w in saved.items()}

    def resume(self):
        if not os.path.exists(self.path("state.pt")):
            return
        saved = torch.load(self.path("state.pt"), map_location=self.args.device)
        if saved["phase"] != self.args.phase:
            return
        with torch.no_grad():
            for name, w in self.model.weights.items():
                w.copy_(saved["weights"][name])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step, self.seconds = saved["step"], saved["seconds"]

    def save(self, done):
        save_whole(self.path("state.pt"), {"phase": self.args.phase, "weights": self.model.weights, "step": self.step,
                                           "seconds": self.seconds, "optimizer": self.optimizer.state_dict()})
        # Both sets of weights are compared in one table: those of joint training have a name of their own.
        name = f"demo-{self.g.backbone}-joint" if self.args.phase == "joint" else ""
        backbone.save(self.path("model"), self.g, self.model.weights, name)
        if done:
            backbone.save(self.path(f"model-{self.args.phase}"), self.g, self.model.weights, name)

    def progress(self):
        return self.step / self.args.steps if self.args.steps else self.seconds / self.args.seconds

    def length(self):
        return next((length for share, length in self.lengths if self.progress() < share), self.lengths[-1][1])

    def scale(self):
        fall = (self.progress() - self.decay_from) / (1 - self.decay_from)
        return min(1.0, (self.step + 1) / WARM_UP_STEPS) * (1 - 0.95 * min(1.0, max(0.0, fall)))

    def loss(self, tokens, weights):
        """-> (loss to follow, {what to log})"""
        target = torch.roll(tokens, -1, 1)
        weight = torch.roll(weights, -1, 1).float() * data.WEIGHT_UNIT
        weight[:, -1] = 0
        if self.args.phase == "dense":
            loss = self.model.loss(tokens, target, weight)
            return loss, {"loss": loss.detach()}
        rng = torch.Generator().manual_seed(self.step)
        rows = distill.sample_rows(tokens.shape[1], min(self.args.rows, tokens.shape[1]), tokens.device, rng)
        distiller = distill.Distiller(self.g, rows)
        joint = self.args.phase == "joint"
        method = ("clsa" if self.g.yoco else "token") if joint else "dense"
        x = self.model.open_pass(tokens, method, self.g.top_k, probe=distiller)
        kd = distiller.loss()
        if not joint:
            return kd, {"kd": kd.detach()}
        lm = self.model.loss_of(x, target, weight)
        return lm + KD_WEIGHT * kd, {"loss": lm.detach(), "kd": kd.detach()}


def train(run, texts, log):
    args, shape, batches = run.args, None, None
    saved = window = time.monotonic()
    counted = run.step
    while run.progress() < 1 and time.monotonic() - STARTED < args.stop_after:
        began = time.monotonic()
        length = run.length()
        n = max(1, args.tokens // length) if args.phase == "dense" else args.documents
        fresh = shape != (n, length)
        if fresh:
            shape = (n, length)
            batches = data.stream(texts, args.seed + 1000 * list(PHASES).index(args.phase), run.step, shape,
                                  args.workers)
        tokens, weights = (x.to(args.device, non_blocking=True) for x in next(batches))
        loss, told = run.loss(tokens.long(), weights)
        loss.backward()
        run.optimizer.step(run.scale())
        run.step += 1
        if run.step % LOG_EVERY_STEPS == 0 or fresh:
            told = {name: round(value.item(), 4) for name, value in told.items()}       # waits for the device
            if not np.isfinite(list(told.values())).all():
                sys.exit(f"train.py: step {run.step}: the loss is not a number")
            now = time.monotonic()
            rate = (run.step - counted) * n * length / (now - window)
            log.write(phase=args.phase, step=run.step, seconds=round(run.seconds, 1), length=length, **told,
                      scale=round(run.scale(), 3), tokens_per_s=int(rate), process_s=round(now - STARTED, 1),
                      peak_gib=round(torch.cuda.max_memory_allocated() / 2 ** 30, 1) if args.device == "cuda" else 0)
            counted, window = run.step, now
        if not fresh:       # what a new shape costs to compile is no training
            run.seconds += time.monotonic() - began
        if time.monotonic() - saved > SAVE_EVERY_SECONDS:
            run.save(done=False)
            saved = time.monotonic()
    run.save(done=run.progress() >= 1)


def main():
    args = parse()
    os.makedirs(args.out, exist_ok=True)
    torch.set_float32_matmul_precision("high")
    torch._dynamo.config.cache_size_limit = 64      # one entry per kind of layer and shape of a batch
    log = Log(os.path.join(args.out, "log.jsonl"))
    device = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
    log.write(event="start", **vars(args), device_name=device, torch=torch.__version__)
    heldout = np.fromfile(args.heldout, np.uint8)
    if args.phase == "evaluate":
        g, weights = backbone.load(os.path.join(args.out, "model"), args.device)
        run_model = backbone.Model(g, weights, dtype=torch.bfloat16 if args.device == "cuda" else torch.float32)
    else:
        run = Run(args)
        train(run, data.Texts(corpus.load(args.corpus)), log)
        log.write(event="end", phase=args.phase, step=run.step, seconds=round(run.seconds, 1),
                  whole=run.progress() >= 1)
        g, run_model = run.g, run.model
    if args.samples:
        cases = CASES[args.backbone][:args.cases] if args.phase != "dense" else []
        longest = 8192 if not args.lengths else int(args.lengths.split(":")[-1])
        for row in evaluate.report(run_model, heldout, longest, (args.samples, args.sparse_samples), cases, args.device):
            log.write(event="evaluation", phase=args.phase, **row)


if __name__ == "__main__":
    main()
