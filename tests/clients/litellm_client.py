"""LiteLLM by the providers one would name for this server: python litellm_client.py BASE_URL [scripted]."""

import importlib.metadata
import json
import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm
from scene import ANSWER, HELLO, LIVES, SCRIPTED, WEATHER, Person, check_person, get_weather

BASE = sys.argv[1]
litellm.telemetry = False
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "Name of the city"}},
    "required": ["city"],
}
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Get the weather in a city", "parameters": PARAMETERS},
}
PROVIDERS = {
    "openai/m": BASE + "/v1",
    "hosted_vllm/m": BASE + "/v1",
    "llamafile/m": BASE + "/v1",
    "lm_studio/m": BASE + "/v1",
    "anthropic/m": BASE,
    "ollama_chat/m": BASE,
}


def user(content):
    return [{"role": "user", "content": content}]


for model, base in PROVIDERS.items():
    ask = {"model": model, "api_base": base, "api_key": "EMPTY", "num_retries": 0, "max_tokens": 300}
    said = litellm.completion(messages=user(HELLO), **ask)
    assert said.choices[0].message.content.startswith("Hello!"), model
    chunks = litellm.completion(messages=user(HELLO), stream=True, **ask)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks).startswith("Hello!"), model

    messages = user(WEATHER)
    message = litellm.completion(messages=messages, tools=[TOOL], **ask).choices[0].message
    [call] = message.tool_calls
    assert call.function.name == "get_weather", model
    result = get_weather(**json.loads(call.function.arguments))
    messages += [message.model_dump(exclude_none=True), {"role": "tool", "tool_call_id": call.id, "content": result}]
    said = litellm.completion(messages=messages, tools=[TOOL], **ask).choices[0].message.content
    assert said.strip() == ANSWER, (model, said)
    if model != "ollama_chat/m":
        required = litellm.completion(messages=user(WEATHER), tools=[TOOL], tool_choice="required", **ask)
        assert required.choices[0].message.tool_calls, model
    # Its `anthropic` provider makes a forced tool of a schema, with the model's name deciding how.
    answer = litellm.completion(messages=user(LIVES), response_format=Person, **ask).choices[0].message.content
    check_person(Person.model_validate_json(answer))

ask = {"model": "openai/m", "api_base": BASE + "/v1", "api_key": "EMPTY", "num_retries": 0}
response = litellm.responses(input=HELLO, **ask)
assert response.output[0].content[0].text.startswith("Hello!")
two = litellm.completion(messages=user(HELLO), n=2, logprobs=True, top_logprobs=2, **ask)
assert len(two.choices) == 2
# The scripted model has no scores.
assert SCRIPTED or two.choices[0].logprobs.content[0].top_logprobs
try:
    litellm.completion(messages=user("word " * 200_000), **ask)
    raise SystemExit("it was not refused")
except litellm.ContextWindowExceededError:
    pass

print("passed: litellm", importlib.metadata.version("litellm"))
