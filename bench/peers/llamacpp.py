#!/usr/bin/env python3
"""Runs one GGUF file through llama.cpp and through Quern, in turn, and prints how they compare.

    pip install llama-cpp-python        # builds llama.cpp for this machine
    python bench/peers/llamacpp.py model.gguf --pairs 5

Each pair is one run of either, the first of them alternating; the figures are medians over pairs with the
smallest and the largest. Both read the same file with the same threads and chunks of 512 tokens; llama.cpp has
flash attention and maps the file (`--repack 0` in its words: on CPUs with AVX-512 its repacked kernels are slower
at prefill). `quern bench offline` measures Quern; what is done here for llama.cpp is the same, call for call.

With `--through-server` Quern's part of the largest batch is measured once more through `quern serve`, with
`quern bench serving` as the client, and beside it how long the first token of a prompt of 2048 takes whose first 1920
tokens were read before, as a part of what it takes cold.
"""

import argparse
import ctypes
import json
import os
import statistics
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

CHUNK = 512
WARM_UP = 3


def arguments():
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("model")
    args.add_argument("--quern", default="target/release/quern")
    args.add_argument("--pairs", type=int, default=5)
    args.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args.add_argument("--batch-sizes", default="1,8")
    args.add_argument("--depths", default="1")
    args.add_argument("--prompt-lens", default="512")
    args.add_argument("--steps", type=int, default=20)
    args.add_argument("--repeats", type=int, default=1)
    args.add_argument("--through-server", action="store_true")
    args.add_argument("--peer-only", action="store_true", help=argparse.SUPPRESS)
    return args.parse_args()


def numbers(text):
    return [int(part) for part in text.split(",")]


class Peer:
    """llama.cpp through its C interface."""

    def __init__(self, path, threads, context, sequences):
        import llama_cpp

        self.lib = llama_cpp
        llama_cpp.llama_backend_init()
        llama_cpp.llama_log_set(self.quiet, ctypes.c_void_p(0))
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        params.use_mmap = True
        if hasattr(params, "use_extra_bufts"):
            params.use_extra_bufts = False
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), params)
        if not self.model:
            sys.exit(f"{path}: llama.cpp does not load it")
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = context * sequences
        settings.n_batch = settings.n_ubatch = CHUNK
        settings.n_seq_max = sequences
        settings.n_threads = settings.n_threads_batch = threads
        if hasattr(settings, "flash_attn_type"):
            settings.flash_attn_type = 1
        else:
            settings.flash_attn = True
        if hasattr(settings, "kv_unified"):
            settings.kv_unified = False
        self.context = llama_cpp.llama_init_from_model(self.model, settings)
        if not self.context:
            sys.exit("llama.cpp has no room for the context")
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(CHUNK, 0, 1)

    @staticmethod
    def _quiet(level, text, data):
        pass

    @property
    def quiet(self):
        # ctypes frees a callback that nobody holds.
        if not hasattr(Peer, "_held"):
            Peer._held = self.lib.llama_log_callback(Peer._quiet)
        return Peer._held

    def step(self, rows):
        """One call for rows of (token, position, sequence, whether its logits are wanted)."""
        for i, (token, position, sequence, wanted) in enumerate(rows):
            self.batch.token[i] = token
            self.batch.pos[i] = position
            self.batch.n_seq_id[i] = 1
            self.batch.seq_id[i][0] = sequence
            self.batch.logits[i] = wanted
        self.batch.n_tokens = len(rows)
        if self.lib.llama_decode(self.context, self.batch) != 0:
            sys.exit("llama_decode failed")

    def greedy(self, row):
        logits = self.lib.llama_get_logits_ith(self.context, row)
        import numpy

        return int(numpy.ctypeslib.as_array(logits, shape=(self.vocab,)).argmax())

    def clear(self):
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)

    def prompt(self, tokens, seed):
        return [(i * 7919 + seed * 104_729) % self.vocab for i in range(tokens)]

    def read(self, prompt, sequence):
        """Compute a prompt in chunks; the token that follows."""
        for begin in range(0, len(prompt), CHUNK):
            chunk = prompt[begin : begin + CHUNK]
            last = begin + len(chunk) == len(prompt)
            self.step([(token, begin + i, sequence, last and i + 1 == len(chunk)) for i, token in enumerate(chunk)])
        return self.greedy(-1)

    def decode(self, batch, depth, steps):
        self.clear()
        tokens = [self.read(self.prompt(depth, i), i) for i in range(batch)]
        seconds = []
        for step in range(WARM_UP + steps):
            begin = time.perf_counter()
            self.step([(token, depth + step, i, True) for i, token in enumerate(tokens)])
            tokens = [self.greedy(i) for i in range(batch)]
            seconds.append(time.perf_counter() - begin)
        return statistics.median(seconds[WARM_UP:])

    def prefill(self, tokens, repeats):
        seconds = []
        for seed in range(repeats):
            self.clear()
            begin = time.perf_counter()
            self.read(self.prompt(tokens, seed), 0)
            seconds.append(time.perf_counter() - begin)
        return statistics.median(seconds)


def run_peer(args):
    """What `quern bench offline --json` prints, of llama.cpp."""
    batches, depths, lengths = numbers(args.batch_sizes), numbers(args.depths), numbers(args.prompt_lens)
    context = max(max(depths) + WARM_UP + args.steps + 1, max(lengths) + 1)
    peer = Peer(args.model, args.threads, context, max(batches))
    peer.read(peer.prompt(32, 99), 0)
    for batch in batches:
        for depth in depths:
            median = peer.decode(batch, max(depth, 1), args.steps)
            print(json.dumps({"name": f"decode, batch {batch} at {max(depth, 1)}", "tokens_per_s": batch / median}))
    for tokens in lengths:
        print(json.dumps({"name": f"prefill, {tokens} tokens", "tokens_per_s": tokens / peer.prefill(tokens, args.repeats)}))


class Served:
    """`quern serve` on a free port, ready."""

    def __init__(self, args, pool):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [args.quern, "serve", "--model", args.model, "--port", str(self.port), "--no-ui",
                   "--cpu-threads", str(args.threads), "--chunked-prefill-size", str(CHUNK),
                   "--max-total-tokens", str(pool), "--context-length", str(pool)]
        begin = time.perf_counter()
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.url = f"http://127.0.0.1:{self.port}"
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/health_generate", timeout=60).read()
                break
            except (urllib.error.URLError, ConnectionError):
                if self.process.poll() is not None:
                    sys.exit("quern serve ended before it was ready")
                time.sleep(0.2)
        print(f"from the command to the first token: {time.perf_counter() - begin:.1f} s")

    def decode(self, args, streams):
        """Tokens a second of so many streams at once, from the median time between two tokens."""
        with tempfile.NamedTemporaryFile("r", suffix=".jsonl") as file:
            command = [args.quern, "bench", "serving", "--backend", "sglang", "--base-url", self.url,
                       "--dataset-name", "random-ids", "--random-input-len", "16", "--random-range-ratio", "1",
                       "--random-output-len", str(WARM_UP + args.steps), "--num-prompts", str(streams),
                       "--max-concurrency", str(streams), "--flush-cache", "--output-file", file.name]
            subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
            return streams / json.loads(file.readlines()[-1])["median_itl_ms"] * 1000

    def first_token(self, ids):
        body = json.dumps({"input_ids": ids, "sampling_params": {"max_new_tokens": 1, "temperature": 0}}).encode()
        request = urllib.request.Request(f"{self.url}/generate", body, {"Content-Type": "application/json"})
        begin = time.perf_counter()
        urllib.request.urlopen(request, timeout=600).read()
        return time.perf_counter() - begin

    def cached(self, seed, length=2048, seen=1920):
        """First token of a prompt whose beginning was read before, as a part of that of a cold one."""
        cold, other = ([(i * 7919 + salt * 104_729) % 100_000 for i in range(length)] for salt in (seed, seed + 1000))
        seconds = self.first_token(cold)
        return self.first_token(cold[:seen] + other[seen:]) / seconds

    def stop(self):
        self.process.terminate()
        self.process.wait()


def through_server(args, pool):
    streams = max(numbers(args.batch_sizes))
    served = Served(args, pool)
    try:
        speeds = [served.decode(args, streams) for _ in range(args.pairs)]
        parts = [100 * served.cached(seed) for seed in range(1, args.pairs + 1)]
    finally:
        served.stop()
    print(f"decode, {streams} streams through the server: {spread(speeds)} tok/s")
    print(f"first token of 2048 tokens, 1920 of them seen before: {spread(parts)} % of the cold one's time")


def rows(command):
    out = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    return {row["name"]: row for row in (json.loads(line) for line in out.splitlines() if line.startswith("{"))}


def spread(values):
    return f"{statistics.median(values):8.2f} [{min(values):.2f}–{max(values):.2f}]"


def ours(args, pool):
    """The command that measures Quern, as rows of JSON."""
    return [args.quern, "bench", "offline", "--json", "--model", args.model, "--cpu-threads", str(args.threads),
            "--chunked-prefill-size", str(CHUNK), "--max-total-tokens", str(pool), "--batch-sizes", args.batch_sizes,
            "--depths", args.depths, "--prompt-lens", args.prompt_lens, "--steps", str(args.steps),
            "--repeats", str(args.repeats)]


def compare(peer, its_command, our_command, pairs):
    """Run both in turn and print medians, spreads and ratios."""
    found = {}
    for pair in range(pairs):
        order = [(peer, its_command), ("quern", our_command)]
        for name, command in order if pair % 2 == 0 else order[::-1]:
            for work, row in rows(command).items():
                found.setdefault(work, {}).setdefault(name, []).append(row)
        print(f"pair {pair + 1} of {pairs}", file=sys.stderr)
    print(f"{'work':28} {peer + ' tok/s':>26} {'quern tok/s':>26} {'ratio':>24} {'of peak':>8}")
    for work, each in found.items():
        speeds = {name: [row["tokens_per_s"] for row in each[name]] for name in (peer, "quern")}
        ratios = [b / a for a, b in zip(speeds[peer], speeds["quern"])]
        of_peak = statistics.median(row["of_peak"] for row in each["quern"])
        print(f"{work:28} {spread(speeds[peer]):>26} {spread(speeds['quern']):>26} {spread(ratios):>24} {100 * of_peak:6.0f} %")


def main():
    args = arguments()
    if args.peer_only:
        return run_peer(args)
    peer = [sys.executable, __file__, args.model, "--peer-only", "--threads", str(args.threads),
            "--batch-sizes", args.batch_sizes, "--depths", args.depths, "--prompt-lens", args.prompt_lens,
            "--steps", str(args.steps), "--repeats", str(args.repeats)]
    batches = numbers(args.batch_sizes)
    pool = max(batches) * (max(numbers(args.depths)) + args.steps + 64) + max(numbers(args.prompt_lens)) + 64
    compare("llama.cpp", peer, ours(args, pool), args.pairs)
    if args.through_server:
        through_server(args, max(pool, 2 * 2048 + 64))


if __name__ == "__main__":
    main()
