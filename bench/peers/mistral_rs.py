#!/usr/bin/env python3
"""Runs one GGUF file through mistral.rs and through Quern, in turn, and prints how they compare.

    pip install mistralrs               # a wheel for CPUs
    python bench/peers/mistral_rs.py model.gguf --tokenizer tokenizer.json --pairs 5

One stream: decoding behind a prompt of one word, and the time of a prompt of 512 tokens. mistral.rs is asked through
its Python interface and its own figures are taken (`usage`); how its memory and kernels are set up is its default.
"""

import argparse
import json
import os
import statistics
import sys

from llamacpp import WARM_UP, compare, ours

PROMPT = 512


def arguments():
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("model")
    args.add_argument("--tokenizer", help="tokenizer.json, for a file without one")
    args.add_argument("--quern", default="target/release/quern")
    args.add_argument("--pairs", type=int, default=5)
    args.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args.add_argument("--steps", type=int, default=20)
    args.add_argument("--repeats", type=int, default=1)
    args.add_argument("--peer-only", action="store_true", help=argparse.SUPPRESS)
    args.set_defaults(batch_sizes="1", depths="1", prompt_lens=str(PROMPT))
    return args.parse_args()


def run_peer(args):
    """What `quern bench offline --json` prints, of mistral.rs."""
    os.environ["RAYON_NUM_THREADS"] = str(args.threads)
    from mistralrs import CompletionRequest, Runner, Which

    folder, name = os.path.split(os.path.abspath(args.model))
    which = Which.GGUF(quantized_model_id=folder, quantized_filename=name, tokenizer_json=args.tokenizer)
    runner = Runner(which=which, prefix_cache_n=0)

    def usage(prompt, tokens):
        request = CompletionRequest(model="default", prompt=prompt, max_tokens=tokens, temperature=0.0)
        return runner.send_completion_request(request).usage

    usage("warm", WARM_UP)
    decoded = usage("one", WARM_UP + args.steps)
    print(json.dumps({"name": "decode, batch 1 at 1", "tokens_per_s": decoded.avg_compl_tok_per_sec}))
    prompts = [usage(" the" * PROMPT, 1) for _ in range(args.repeats)]
    speed = statistics.median(prompt.avg_prompt_tok_per_sec for prompt in prompts)
    print(json.dumps({"name": f"prefill, {PROMPT} tokens", "tokens_per_s": speed}))


def main():
    args = arguments()
    if args.peer_only:
        return run_peer(args)
    peer = [sys.executable, __file__, args.model, "--peer-only", "--threads", str(args.threads),
            "--steps", str(args.steps), "--repeats", str(args.repeats)]
    peer += ["--tokenizer", args.tokenizer] if args.tokenizer else []
    compare("mistral.rs", peer, ours(args, PROMPT + args.steps + 128), args.pairs)


if __name__ == "__main__":
    main()
