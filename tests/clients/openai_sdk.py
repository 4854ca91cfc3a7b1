"""The OpenAI SDK on every endpoint it knows here: python openai_sdk.py BASE_URL.

The server answers everything with one call of `read_file` after "Let me look."
"""

import json
import sys

import openai

PARAMETERS = {
    "type": "object",
    "properties": {"path": {"type": "string"}, "lines": {"type": "integer"}},
}
ARGUMENTS = {"path": '/tmp/a "b".txt', "lines": 12}

client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="EMPTY", max_retries=0)

model = client.models.list().data[0].id
assert client.models.retrieve(model).id == model
# Requests may name any model, so each name has a card, which says what is served.
assert client.models.retrieve("any/model").root == model

# Chat, whole and streamed, with the result of the call sent back.
tools = [{"type": "function", "function": {"name": "read_file", "description": "Read.", "parameters": PARAMETERS}}]
messages = [{"role": "user", "content": "Read it"}]
whole = client.chat.completions.create(model=model, messages=messages, tools=tools)
message = whole.choices[0].message
assert whole.choices[0].finish_reason == "tool_calls" and message.content == "Let me look.\n"
assert json.loads(message.tool_calls[0].function.arguments) == ARGUMENTS
messages += [message, {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "text"}]
again = client.chat.completions.create(model=model, messages=messages, tools=tools)
assert again.usage.prompt_tokens_details.cached_tokens > whole.usage.prompt_tokens * 0.9
with client.chat.completions.stream(model=model, messages=messages, tools=tools) as stream:
    for _ in stream:
        pass
    final = stream.get_final_completion()
assert json.loads(final.choices[0].message.tool_calls[0].function.arguments) == ARGUMENTS

# Completions, with a gap too.
assert client.completions.create(model=model, prompt="x", max_tokens=4).choices[0].text
chunks = list(client.completions.create(model=model, prompt="x", suffix="y", max_tokens=4, stream=True))
assert chunks[-1].choices[0].finish_reason == "length"

# Responses, whole and streamed, gone on from by id and by history.
tools = [{"type": "function", "name": "read_file", "description": "Read.", "parameters": PARAMETERS, "strict": False}]
whole = client.responses.create(model=model, input="Read it", instructions="Be brief.", tools=tools)
assert whole.status == "completed" and whole.output_text == "Let me look.\n"
call = whole.output[1]
assert call.type == "function_call" and json.loads(call.arguments) == ARGUMENTS
result = {"type": "function_call_output", "call_id": call.call_id, "output": "text"}
by_id = client.responses.create(
    model=model, input=[result], instructions="Be brief.", tools=tools, previous_response_id=whole.id
)
items = [{"role": "user", "content": "Read it"}, *[item.model_dump() for item in whole.output], result]
by_history = client.responses.create(model=model, input=items, instructions="Be brief.", tools=tools)
assert by_id.usage.input_tokens == by_history.usage.input_tokens
assert by_history.usage.input_tokens_details.cached_tokens > whole.usage.input_tokens * 0.9
with client.responses.stream(model=model, input="Read it", tools=tools) as stream:
    kinds = [event.type for event in stream]
    final = stream.get_final_response()
assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
assert json.loads(final.output[1].arguments) == ARGUMENTS
assert client.responses.retrieve(whole.id).id == whole.id
client.responses.delete(whole.id)
cut = client.responses.create(model=model, input="x", max_output_tokens=3)
assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")

# Refusals are the SDK's own errors.
for refused in (
    lambda: client.chat.completions.create(model=model, messages=[]),
    lambda: client.responses.create(model=model, input="x", previous_response_id="resp_none"),
    lambda: client.responses.create(model=model, input="word " * 100_000),
):
    try:
        refused()
        raise SystemExit("it was not refused")
    except openai.BadRequestError as error:
        code = error.code
assert code == "context_length_exceeded", code

print("passed: openai", openai.__version__)
