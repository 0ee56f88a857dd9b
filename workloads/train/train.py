"""train.py - one phase of training of one model.

    python train.py dense   --backbone yoco --corpus DIR/corpus.xz --heldout DIR/heldout.txt --out RUN --steps 2000
    python train.py distill --backbone yoco ... --steps 900
    python train.py joint   --backbone yoco ... --steps 400

dense: next-byte loss, from short documents with many questions to long ones. distill: only the indexers, backbone
frozen. joint: everything, with the backbone's sparse attention in the loop, next-byte loss + 0.1 distillation.

What a step sees is a pure function of the seed and its number, and how it computes is fixed (repeatable() below), so that on one
kind of GPU, with one version of PyTorch, the same command gives the same weights, bit for bit, however often it was stopped
between; README.md says how far that was seen. A phase goes on from RUN/state.pt if that is of the same phase, and begins with
its weights otherwise. --stop-after ends the process in time, with its state saved. RUN/log.jsonl keeps what was run, how it
went and a hash of the weights.
"""
import argparse
import hashlib
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
HASH_EVERY_STEPS = 250
WARM_UP_STEPS = 100
KD_WEIGHT = 0.1             # of distillation in joint training, as in the paper
# rates; share of the phase after which they fall to a twentieth; tokens per document: dense [(share of the phase, length)],
# the others a cycle of steps. Long documents are what is asked for, and half of the steps; among short ones an indexer learns
# that few keys compete, and that questions come early.
MIXED = [8192, 1024, 8192, 2048, 8192, 512]
PHASES = {
    "dense": ({"matrix": 0.02, "embedding": 0.01, "head": 0.003, "gain": 0.004, "index": 0.0}, 0.65,
              [(0.15, 512), (0.45, 2048), (1.0, 8192)]),
    "distill": ({"index": 0.003}, 0.5, MIXED),
    "joint": ({"matrix": 0.002, "embedding": 0.001, "head": 0.0003, "gain": 0.0004, "index": 0.001}, 0.3, MIXED),
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
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--stop-after", type=float, default=1e9, help="seconds after the start of this process")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=0, help="per step (dense: 131072, others: 32768)")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--samples", type=int, default=200, help="per task in the evaluation at the end; 0: none")
    parser.add_argument("--cases", type=int, default=9, help="sparse methods in that evaluation, at most")
    parser.add_argument("--sparse-samples", type=int, default=24, help="per task and sparse method")
    parser.add_argument("--lengths", default="", help="instead of the phase's: SHARE:TOKENS,... (dense), TOKENS,...")
    parser.add_argument("--decay-from", type=float, default=-1, help="share of the phase, instead of the phase's own")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compile", action="store_true", help="on a CPU, too: to try what is compiled")
    args = parser.parse_args()
    if args.phase != "evaluate" and not args.steps:
        parser.error("give --steps")
    args.tokens = args.tokens or (131072 if args.phase == "dense" else 32768)
    return args


def repeatable():
    """Fixes what else two runs may differ in: sums by atomics, kernels chosen by timing. Before CUDA starts."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"       # without it cuBLAS may split sums as memory allows
    torch.use_deterministic_algorithms(True)                # attention's backward pass, too
    torch.utils.deterministic.fill_uninitialized_memory = False     # nothing here reads what it did not write
    torch.backends.cuda.enable_cudnn_sdp(False)             # one attention, whatever PyTorch would prefer
    torch._inductor.config.deterministic = True             # shapes of reductions by rule, not by the clock


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
            parts = [one.split(":") for one in args.lengths.split(",")]
            self.lengths = [(float(p[0]), int(p[1])) if args.phase == "dense" else int(p[0]) for p in parts]
        weights = self.load_weights()
        train_index, train_rest = args.phase != "dense", args.phase != "distill"
        self.names = [name for name in weights if (train_index if backbone.is_index(name) else train_rest)]
        for name, w in weights.items():
            weights[name] = w.to(args.device).requires_grad_(name in self.names)
        self.compiled = args.device == "cuda" or args.compile
        self.model = backbone.Model(self.g, weights, compiled=self.compiled and args.phase == "dense",
                                    dtype=torch.bfloat16 if args.device == "cuda" else torch.float32)
        rates = dict(self.rates)
        if self.g.yoco and "embedding" in rates:
            rates["embedding"] /= self.g.hidden ** 0.5      # the embeddings are that much smaller
        self.optimizer = Optimizer(weights, self.names, rates)
        self.step = 0
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
        self.step = saved["step"]

    def save(self, done):
        save_whole(self.path("state.pt"), {"phase": self.args.phase, "weights": self.model.weights, "step": self.step,
                                           "optimizer": self.optimizer.state_dict()})
        # Both sets of weights are compared in one table: those of joint training have a name of their own.
        name = f"demo-{self.g.backbone}-joint" if self.args.phase == "joint" else ""
        backbone.save(self.path("model"), self.g, self.model.weights, name)
        if done:
            backbone.save(self.path(f"model-{self.args.phase}"), self.g, self.model.weights, name)

    def hash(self):
        """Of all weights as they are trained, fp32, by name."""
        digest = hashlib.sha256()
        for name in sorted(self.model.weights):
            digest.update(self.model.weights[name].detach().cpu().numpy().tobytes())
        return digest.hexdigest()

    def shape(self, step):
        """(documents, tokens of each) of a step."""
        if self.args.phase != "dense":
            length = self.lengths[step % len(self.lengths)]
        else:
            length = next((n for share, n in self.lengths if step < share * self.args.steps), self.lengths[-1][1])
        return max(1, self.args.tokens // length), length

    def scale(self):
        fall = (self.step / self.args.steps - self.decay_from) / (1 - self.decay_from)
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
        rows = distill.sample_rows(tokens.shape[1], max(128, tokens.shape[1] // 8), tokens.device, rng)
        distiller = distill.Distiller(self.g, rows, compiled=self.compiled and tokens.shape[1] == 8192)
        joint = self.args.phase == "joint"
        method = ("clsa" if self.g.yoco else "token") if joint else "dense"
        x = self.model.open_pass(tokens, method, self.g.top_k, probe=distiller)
        kd = distiller.loss()
        if not joint:
            return kd, {"kd": kd.detach()}
        lm = self.model.loss_of(x, target, weight)
        return lm + KD_WEIGHT * kd, {"loss": lm.detach(), "kd": kd.detach()}


def train(run, texts, log):
    args, seen = run.args, set()
    batches = data.stream(texts, args.seed + 1000 * list(PHASES).index(args.phase), run.step, run.shape, args.workers)
    began = saved = window = time.monotonic()
    counted = 0
    while run.step < args.steps and time.monotonic() - STARTED < args.stop_after:
        tokens, weights = (x.to(args.device, non_blocking=True) for x in next(batches))
        fresh = tokens.shape not in seen
        seen.add(tokens.shape)
        loss, told = run.loss(tokens.long(), weights)
        loss.backward()
        run.optimizer.step(run.scale())
        run.step += 1
        counted += tokens.numel()
        if run.step % LOG_EVERY_STEPS == 0 or fresh or run.step == args.steps:
            told = {name: round(value.item(), 4) for name, value in told.items()}       # waits for the device
            if not np.isfinite(list(told.values())).all():
                sys.exit(f"train.py: step {run.step}: the loss is not a number")
            now = time.monotonic()
            if run.step % HASH_EVERY_STEPS == 0:
                told["weights"] = run.hash()[:16]
            log.write(phase=args.phase, step=run.step, seconds=round(now - began, 1), length=tokens.shape[1], **told,
                      scale=round(run.scale(), 3), tokens_per_s=int(counted / (now - window)),
                      process_s=round(now - STARTED, 1),
                      peak_gib=round(torch.cuda.max_memory_allocated() / 2 ** 30, 1) if args.device == "cuda" else 0)
            counted, window = 0, now
        if time.monotonic() - saved > SAVE_EVERY_SECONDS:
            run.save(done=False)
            saved = time.monotonic()
    run.save(done=run.step >= args.steps)
    return time.monotonic() - began


def main():
    args = parse()
    os.makedirs(args.out, exist_ok=True)
    repeatable()
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
        seconds = train(run, data.Texts(corpus.load(args.corpus)), log)
        log.write(event="end", phase=args.phase, step=run.step, seconds=round(seconds, 1), whole=run.step >= args.steps,
                  weights=run.hash())
        g, run_model = run.g, run.model
    if args.samples:
        cases = CASES[args.backbone][:args.cases] if args.phase != "dense" else []
        longest = 8192 if not args.lengths else max(int(one.split(":")[-1]) for one in args.lengths.split(","))
        for row in evaluate.report(run_model, heldout, longest, (args.samples, args.sparse_samples), cases, args.device):
            log.write(event="evaluation", phase=args.phase, **row)


if __name__ == "__main__":
    main()
