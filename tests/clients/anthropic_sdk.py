"""The Anthropic SDK on every endpoint it knows here: python anthropic_sdk.py BASE_URL.

The server answers everything with one call of `read_file` after "Let me look."
"""

import sys

import anthropic

TOOL = {
    "name": "read_file",
    "description": "Read.",
    "input_schema": {
        "type": "object",
        "properties": {"path": {"type": "string"}, "lines": {"type": "integer"}},
    },
}
INPUT = {"path": '/tmp/a "b".txt', "lines": 12}

client = anthropic.Anthropic(base_url=sys.argv[1], api_key="EMPTY", max_retries=0)
ask = {"model": "m", "max_tokens": 500, "tools": [TOOL], "system": "Be brief."}
messages = [{"role": "user", "content": "Read it"}]

counted = client.messages.count_tokens(
    model="m", messages=messages, tools=[TOOL], system="Be brief."
).input_tokens
whole = client.messages.create(messages=messages, **ask)
assert whole.usage.input_tokens + whole.usage.cache_read_input_tokens == counted
assert whole.stop_reason == "tool_use" and whole.content[0].text == "Let me look.\n"
assert whole.content[1].input == INPUT

messages += [
    {"role": "assistant", "content": whole.content},
    {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": whole.content[1].id, "content": "text"},
            {"type": "text", "text": "And now?", "cache_control": {"type": "ephemeral"}},
        ],
    },
]
with client.messages.stream(messages=messages, **ask) as stream:
    text = "".join(stream.text_stream)
    final = stream.get_final_message()
assert text == "Let me look.\n" and final.content[1].input == INPUT and final.stop_reason == "tool_use"
assert final.usage.cache_read_input_tokens > counted * 0.9

stopped = client.messages.create(
    model="m", max_tokens=50, messages=[{"role": "user", "content": "x"}], stop_sequences=["look"]
)
assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "look")
cut = client.messages.create(model="m", max_tokens=3, messages=[{"role": "user", "content": "x"}])
assert cut.stop_reason == "max_tokens"

try:
    client.messages.create(messages=[{"role": "user", "content": "word " * 100_000}], **ask)
    raise SystemExit("it was not refused")
except anthropic.BadRequestError as error:
    assert "prompt is too long: " in error.body["error"]["message"]


# The tool runner begins with a thread, which is refused, and goes on without: the call is carried out.
calls = []


@anthropic.beta_tool
def read_file(path: str, lines: int) -> str:
    """Read.

    Args:
        path: Which.
        lines: How many.
    """
    calls.append({"path": path, "lines": lines})
    return "text"


runner = client.beta.messages.tool_runner(
    model="m", max_tokens=500, tools=[read_file], messages=[{"role": "user", "content": "Read it"}], max_iterations=2
)
answers = list(runner)
assert len(answers) == 2 and calls and calls[0] == INPUT, (answers, calls)
# The second request had the history: its prompt is longer than the first one's.
prompts = [answer.usage.input_tokens + answer.usage.cache_read_input_tokens for answer in answers]
assert prompts[1] > prompts[0], prompts

print("passed: anthropic", anthropic.__version__)
