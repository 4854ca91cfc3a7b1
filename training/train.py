"""Trains quern-demo: `python train.py --out DIR --steps N [--decay-from M] [--resume FILE | --from FOLDER] [--processes P]`.

On two CPU cores a process on either takes half of each step's rows. `--from` goes on with the weights of an exported model
(the optimisers begin anew, at a rate that `--rate` lowers) and with the mixture of the last part of a run.

Muon for the matrices, AdamW for the embedding, the routers and the norms. The learning rate warms up, stays,
and falls to zero between step M and step N. Every step draws its documents from a seed of its own, so a run
that is resumed sees what an unbroken one would have seen.
"""

import argparse
import json
import os
import random
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing
import torch.nn.functional as F
from tokenizers import Tokenizer

from data import VALIDATION_SEED, HeldOut, Stream
from evaluate import scores
from model import MODEL_FOLDER, Model, Shape, exported, restored
from topics import copies

SEED = 1_000
PROCESSES = 2  # of one thread each: they meet once a step, so that a busy neighbour costs little
WARM_UP = 60
MATRIX_RATE, EMBEDDING_RATE, VECTOR_RATE = 0.02, 0.02, 0.004
BALANCE = 0.01
TOOL_ROWS, OTHER_ROWS, OTHER_WIDTH = 2, 4, 400
# Shares of tokens among the documents that are not tool conversations.
MIXTURE = {"copies": 0.04, "repeats": 0.01, "sums_chat": 0.14, "sums_raw": 0.08, "tables": 0.09, "drills": 0.02,
           "programs": 0.08, "gaps": 0.31, "talk": 0.03, "structured": 0.20}
# Shares of documents among the conversations of a row each.
TOOL_MIXTURE = {"tools": 0.72, "results": 0.20, "forced": 0.06, "long_chat": 0.02}
FIRST_MIXTURE = MIXTURE | {"copies": 0.25, "repeats": 0.08}
LENGTHS = {"copies": 90, "repeats": 70, "sums_chat": 106, "sums_raw": 266, "drills": 138, "tables": 180, "programs": 162, "gaps": 62, "talk": 86, "structured": 85}


def orthogonal(g):
    """The nearest (semi-)orthogonal matrices to a stack of matrices, by five Newton-Schulz steps."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = g.shape[-2] > g.shape[-1]
    x = g.mT if tall else g
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        s = x @ x.mT
        x = a * x + (b * s + c * s @ s) @ x
    return x.mT if tall else x


class Muon:
    """Momentum whose step is made orthogonal; the stacked experts are matrices of their own.

    Each process works out the steps of its share of the parameters and hears of the others'.
    """

    def __init__(self, params, processes, momentum=0.95):
        self.params, self.processes, self.momentum = params, processes, momentum
        self.speed = [torch.zeros_like(p) for p in params]

    @torch.no_grad()
    def step(self, rate, rank):
        steps = [torch.zeros_like(p) for p in self.params]
        for i, (p, v) in enumerate(zip(self.params, self.speed)):
            v.lerp_(p.grad, 1 - self.momentum)
            if i % self.processes != rank:
                p.grad = None
                continue
            step = p.grad.lerp(v, self.momentum)
            if p.ndim == 3 and p.shape[1] < p.shape[2]:  # gate and up stacked
                step = step.view(p.shape[0] * 2, -1, p.shape[2])
            elif p.ndim == 2:
                step = step[None]
            scale = max(1.0, step.shape[-2] / step.shape[-1]) ** 0.5
            steps[i] = orthogonal(step).view_as(p) * scale
            p.grad = None
        flat = torch.cat([step.reshape(-1) for step in steps])
        dist.all_reduce(flat)
        for p, step in zip(self.params, flat.split([p.numel() for p in self.params])):
            p.mul_(1 - rate * 0.03).add_(step.view_as(p), alpha=-rate)


def optimisers(model, processes):
    matrices = [p for n, p in model.named_parameters() if p.ndim >= 2 and n != "embed" and not n.endswith("gate")]
    vectors = [p for n, p in model.named_parameters() if n != "embed" and not any(p is m for m in matrices)]
    groups = [{"params": [model.embed], "full_rate": EMBEDDING_RATE}, {"params": vectors, "full_rate": VECTOR_RATE}]
    return Muon(matrices, processes), torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0)


def rate_factor(step, decay_from, steps):
    if step < WARM_UP:
        return (step + 1) / WARM_UP
    if step < decay_from:
        return 1.0
    return max(0.0, (steps - step) / (steps - decay_from))


class Batches:
    """The rows of a step: tool conversations of similar length, and rows filled with short documents."""

    def __init__(self, tokenizer, held_out):
        self.tokenizer, self.held_out = tokenizer, held_out
        self.pad = tokenizer.token_to_id("<|endoftext|>")

    def encoded(self, parts):
        ids, learned = [], []
        for text, flag in parts:
            piece = self.tokenizer.encode(text).ids
            ids += piece
            learned += [flag] * len(piece)
        return ids, learned

    def rows(self, step, progress):
        rng = random.Random(SEED * 1_000_000 + step)
        stream = Stream(rng.randrange(2**60), self.held_out)
        # Short conversations first: copying is found sooner where there is less to look through.
        turns, lean = ((2, 4), 1.0) if progress < 0.15 else ((3, 6), 0.8) if progress < 0.7 else ((3, 6), 0.3)
        # Choosing among tools that are alike comes last: it needs everything else, and is most of what then goes wrong.
        late = progress >= 0.7
        pool = []
        for kind in rng.choices(*zip(*TOOL_MIXTURE.items()), k=4 * TOOL_ROWS):
            document = stream.tools(turns, rng.random() < lean, late and rng.random() < 0.5) if kind == "tools" else getattr(stream, kind)()
            pool.append(self.encoded(document))
        pool.sort(key=lambda d: len(d[0]))
        start = rng.randrange(3 * TOOL_ROWS + 1)
        yield self.stacked(pool[start : start + TOOL_ROWS])
        kinds, shares = zip(*(FIRST_MIXTURE if progress < 0.15 else MIXTURE).items())
        weights = [share / LENGTHS[k] for k, share in zip(kinds, shares)]
        rows = []
        for _ in range(OTHER_ROWS):
            ids, learned = [], []
            while len(ids) < OTHER_WIDTH:
                kind = rng.choices(kinds, weights)[0]
                if kind == "repeats":
                    given, again = copies.repeated(rng, self.tokenizer.get_vocab_size(with_added_tokens=False))
                    more, flags = given + again, [False] * len(given) + [True] * len(again)
                else:
                    more, flags = self.encoded(getattr(stream, kind)())
                ids += more
                learned += flags
            rows.append((ids[:OTHER_WIDTH], learned[:OTHER_WIDTH]))
        yield self.stacked(rows)

    def stacked(self, rows):
        width = max(len(ids) for ids, _ in rows)
        ids = torch.full((len(rows), width), self.pad)
        learned = torch.zeros(len(rows), width, dtype=torch.long)  # 0 padding, 1 given, 2 learned
        for i, (row, flags) in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            learned[i, : len(row)] = torch.tensor(flags).long() + 1
        return ids, learned


def arguments():
    args = argparse.ArgumentParser()
    args.add_argument("--out", type=Path, required=True)
    args.add_argument("--steps", type=int, required=True)
    args.add_argument("--decay-from", type=int)
    args.add_argument("--stop-at", type=int)
    args.add_argument("--resume", type=Path)
    args.add_argument("--from", dest="base", type=Path)
    args.add_argument("--keep-clear", type=Path, help="a folder of further held-out sets, which the stream skips as well")
    args.add_argument("--rate", type=float, default=1.0, help="scales all learning rates")
    args.add_argument("--minutes", type=float, help="the rate falls to zero over so many minutes, whatever the steps: on a shared machine")
    args.add_argument("--processes", type=int, default=PROCESSES)
    args.add_argument("--validate-every", type=int, default=500)
    parsed = args.parse_args()
    if parsed.minutes and parsed.processes > 1:
        args.error("--minutes needs --processes 1: two clocks do not agree on the last step")
    return parsed


def picked_positions(learned, step, given_share):
    """Positions (of all rows, one after another) whose next token is scored: what is to be learned, and a share of the rest."""
    want = learned[:, 1:].reshape(-1)
    chance = torch.rand(want.shape, generator=torch.Generator().manual_seed(step)) < given_share
    return ((want == 2) | ((want == 1) & chance)).view(len(learned), -1)


def sum_gradients(params):
    flat = torch.cat([p.grad.reshape(-1) for p in params])
    dist.all_reduce(flat)
    for p, g in zip(params, flat.split([p.numel() for p in params])):
        p.grad = g.view_as(p)


def run(rank, args, port):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    processes = args.processes
    dist.init_process_group("gloo", rank=rank, world_size=processes)
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    tokenizer = Tokenizer.from_file(str(MODEL_FOLDER / "tokenizer.json"))
    validation = HeldOut.make(VALIDATION_SEED, (60, 100, 60, 0, 60))
    held_out = HeldOut.load()
    if args.keep_clear:
        held_out = held_out.with_sets_of(HeldOut.load(args.keep_clear))
    batches = Batches(tokenizer, held_out)
    state = None
    if args.resume:
        model, state = restored(args.resume)
    elif args.base:
        model = exported(args.base)
    else:
        model = Model(Shape(vocab_size=tokenizer.get_vocab_size())).initialise(SEED)
    params = list(model.parameters())
    muon, adam = optimisers(model, processes)
    first = tokens = seconds = 0
    if state:
        first, tokens, seconds = state["step"], state["tokens"], state["seconds"]
        muon.speed = state["muon"]
        adam.load_state_dict(state["adam"])
    log = (args.out / "log.jsonl").open("a")

    def report(row):
        print(json.dumps(row), flush=True)
        log.write(json.dumps(row) + "\n")
        log.flush()

    def save(step):
        torch.save({"shape": model.shape.as_dict(), "model": model.state_dict(), "muon": muon.speed,
                    "adam": adam.state_dict(), "step": step, "tokens": tokens, "seconds": seconds}, args.out / "last.pt")

    decay_from = args.decay_from if args.decay_from is not None else args.steps // 2
    last = args.stop_at or args.steps
    began, losses = time.time() - seconds, []
    ends = time.time() + 60 * args.minutes if args.minutes else None
    for step in range(first, last):
        model.train()
        factor = args.rate * rate_factor(step, decay_from, args.steps)
        if ends:
            left = max(0.0, (ends - time.time()) / (60 * args.minutes))
            factor = args.rate * min(1.0 if state else (step + 1) / WARM_UP, left)
            if left == 0.0:
                break
        progress = 1.0 if args.base else step / args.steps
        given_share = max(0.03, 0.15 * (1 - progress / 0.4))
        micro = []
        for ids, learned in batches.rows(step, progress):
            micro.append((ids, learned, picked_positions(learned, step, given_share)))
        total = sum(where.sum().item() for _, _, where in micro)
        step_losses = []
        for ids, learned, where in micro:
            tokens += (learned > 0).sum().item()
            ids, learned, where = ids[rank::processes], learned[rank::processes], where[rank::processes].reshape(-1).nonzero().squeeze(1)
            hidden = model(ids[:, :-1]).reshape(-1, model.shape.hidden_size)
            targets = ids[:, 1:].reshape(-1)[where]
            each = F.cross_entropy(model.logits(hidden[where]), targets, reduction="none")
            (each.sum() / total + BALANCE * model.balance() / (len(micro) * processes)).backward()
            own = learned[:, 1:].reshape(-1)[where] == 2
            step_losses.append(each.detach()[own].mean().item())
        sum_gradients(params)
        for group in adam.param_groups:
            group["lr"] = group["full_rate"] * factor
        muon.step(MATRIX_RATE * factor, rank)
        adam.step()
        adam.zero_grad(set_to_none=True)
        seconds = time.time() - began
        losses.append(step_losses)
        if rank == 0 and (step + 1) % 25 == 0:
            tool, other = (sum(x) / len(x) for x in zip(*losses))
            losses = []
            report({"step": step + 1, "tokens": tokens, "seconds": round(seconds), "tools": round(tool, 4), "other": round(other, 4)})
        if rank == 0 and (step + 1) % 50 == 0:
            save(step + 1)
        if (step + 1) % args.validate_every == 0 or step + 1 == last:
            if rank == 0:
                torch.set_num_threads(processes)
                report({"step": step + 1, "validation": scores(model, tokenizer, validation)})
                torch.set_num_threads(1)
            dist.barrier()
    if rank == 0:
        save(step if ends else last)
    dist.destroy_process_group()


def main():
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.multiprocessing.spawn(run, (args, 20_000 + os.getpid() % 20_000), nprocs=args.processes)


if __name__ == "__main__":
    main()
