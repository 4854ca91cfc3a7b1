"""Replicas behind sglang-router, as docs/deploy.md has them: python router.py QUERN.

Two servers with the model inside the program answer through the router; one is killed and comes back, then one drains.
"""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import openai

# Starts on a machine that has other things to do; nothing below depends on how long they take.
PATIENCE = 120
# How long the router asks nothing of a replica that has failed several times.
BREAKER_SECONDS = 3


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Replica:
    def __init__(self, port=0):
        words = ["serve", "--port", str(port), "--enable-metrics", "--max-total-tokens", "8192"]
        self.process = subprocess.Popen([sys.argv[1], *words], stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if found := re.search(r"Listening on (http://127\.0\.0\.1:(\d+))", line):
                self.url, self.port = found[1], int(found[2])
            if line.rstrip().endswith("ready to roll!"):
                break
        else:
            raise SystemExit("a server did not start")
        threading.Thread(target=self.process.stderr.read, daemon=True).start()


def until(what, holds):
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, f"{what}: not within {PATIENCE} s"
        time.sleep(0.1)


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.read().decode()
    except OSError:
        return None


replicas = [Replica(), Replica()]
port = free_port()
router = subprocess.Popen(
    [Path(sys.executable).with_name("sglang-router"), "launch", "--worker-urls", *(r.url for r in replicas)]
    + ["--port", str(port), "--prometheus-port", str(free_port()), "--log-level", "error"]
    + "--policy cache_aware --health-check-interval-secs 1 --health-failure-threshold 2".split()
    + "--health-success-threshold 1 --cb-failure-threshold 3".split()
    + ["--cb-timeout-duration-secs", str(BREAKER_SECONDS)],
    stdout=subprocess.DEVNULL,
)
try:
    url = f"http://127.0.0.1:{port}"
    until("the router is ready", lambda: get(f"{url}/readiness") is not None)
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="EMPTY", max_retries=0)
    model = client.models.list().data[0].id

    def chat(content="Say hello", **more):
        messages = [{"role": "user", "content": content}]
        return client.chat.completions.create(model=model, messages=messages, max_tokens=16, **more)

    def answered(content):
        """Whether a request was answered; how one fails behind a router, nobody promises."""
        try:
            return chat(content).usage.completion_tokens > 0
        except openai.APIStatusError:
            return False

    # The same words whole, streamed, and from a replica itself.
    whole = chat(temperature=0).choices[0].message.content
    stream = list(chat(temperature=0, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == whole
    assert stream[-1].usage.completion_tokens > 0
    direct = openai.OpenAI(base_url=f"{replicas[0].url}/v1", api_key="EMPTY", max_retries=0)
    messages = [{"role": "user", "content": "Say hello"}]
    own = direct.chat.completions.create(model=model, messages=messages, max_tokens=16, temperature=0)
    assert own.choices[0].message.content == whole

    path = {"type": "string", "description": "Path of the file"}
    parameters = {"type": "object", "properties": {"path": path}, "required": ["path"]}
    function = {"name": "find_notes", "description": "Find notes", "parameters": parameters}
    messages = [{"role": "user", "content": "Find notes at the path notes.txt"}]
    asked = {"model": model, "tools": [{"type": "function", "function": function}], "temperature": 0}
    called = client.chat.completions.create(messages=messages, tool_choice="required", **asked).choices[0]
    assert called.finish_reason == "tool_calls", called
    call = called.message.tool_calls[0]
    assert (call.function.name, json.loads(call.function.arguments)) == ("find_notes", {"path": "notes.txt"}), called
    messages += [called.message, {"role": "tool", "tool_call_id": call.id, "content": '{"results": ["Buy bread"]}'}]
    assert "Buy bread" in client.chat.completions.create(messages=messages, **asked).choices[0].message.content

    # The router reads the metrics of both.
    metrics = get(f"{url}/engine_metrics").splitlines()
    assert len(metrics) > 400, len(metrics)
    assert all(any(str(r.port) in line for line in metrics) for r in replicas)

    # One that is killed is left out once the breaker, or a probe, has noticed.
    killed = replicas[0]
    killed.process.send_signal(signal.SIGKILL)
    killed.process.wait()
    until("the other answers all", lambda: all(answered(f"Count to {n}") for n in range(8)))

    # It comes back: the only one there is, it answers everything.
    replicas[0] = Replica(killed.port)
    other = replicas[1]
    other.process.send_signal(signal.SIGKILL)
    other.process.wait()
    until("the one that came back answers all", lambda: all(answered(f"Count to {n}") for n in range(8)))

    # One that drains loses nothing: what it refuses, the router tries elsewhere.
    replicas[1] = Replica(other.port)
    returned = time.monotonic()
    until("both are known", lambda: (get(f"{url}/get_loads") or "").count('"load"') == 2)
    # Known is not trusted yet: a probe must have passed, and the breaker have waited until it tries again.
    until("both are healthy", lambda: (get(f"{url}/workers") or "").count('"is_healthy":true') == 2)
    until("the breaker tries again", lambda: time.monotonic() > returned + 2 * BREAKER_SECONDS)
    replicas[0].process.send_signal(signal.SIGTERM)
    assert all(answered(f"Count to {n}") for n in range(8))
    assert replicas[0].process.wait(PATIENCE) == 0
    print("sglang-router: chat, stream, tools, metrics, kill and return, drain passed")
finally:
    for process in [router, *(r.process for r in replicas)]:
        process.kill()
