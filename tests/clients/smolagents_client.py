"""smolagents' models and agents, by calls of tools and by code: python smolagents_client.py BASE_URL [scripted]."""

import importlib.metadata
import json
import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
from scene import ANSWER, HELLO, LIVES, SCRIPTED, WEATHER, Person, check_person, get_weather
from smolagents import CodeAgent, LiteLLMModel, LogLevel, OpenAIModel, ToolCallingAgent, tool

BASE = sys.argv[1]
TOOL = tool(get_weather)
FORM = {"type": "json_schema", "json_schema": {"name": "person", "schema": Person.model_json_schema()}}
NAMED = {"type": "function", "function": {"name": "get_weather"}}
MODELS = [
    OpenAIModel("m", api_base=BASE + "/v1", api_key="EMPTY", client_kwargs={"max_retries": 0}),
    LiteLLMModel("openai/m", api_base=BASE + "/v1", api_key="EMPTY"),
]


def user(text):
    return [{"role": "user", "content": [{"type": "text", "text": text}]}]


for model in MODELS:
    assert model.generate(user(HELLO)).content.startswith("Hello!")
    deltas = list(model.generate_stream(user(HELLO)))
    assert "".join(delta.content or "" for delta in deltas).startswith("Hello!")
    assert deltas[-1].token_usage.output_tokens > 0

    # A call is required unless something else is said.
    for choice in ({}, {"tool_choice": "auto"}, {"tool_choice": NAMED}):
        said = model.generate(user(WEATHER), tools_to_call_from=[TOOL], **choice)
        [call] = said.tool_calls
        assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Paris"}), call
        assert not (said.content or "").strip() or choice.get("tool_choice") == "auto", said.content
    check_person(Person.model_validate_json(model.generate(user(LIVES), response_format=FORM).content))

    # Their prompts are beyond the shipped model.
    if SCRIPTED:
        ask = {"tools": [TOOL], "model": model, "max_steps": 4, "verbosity_level": LogLevel.OFF}
        for streams in (False, True):
            assert ToolCallingAgent(stream_outputs=streams, **ask).run(WEATHER) == ANSWER
            assert CodeAgent(stream_outputs=streams, **ask).run(WEATHER) == ANSWER
        assert CodeAgent(use_structured_outputs_internally=True, **ask).run(WEATHER) == ANSWER

print("passed: smolagents", importlib.metadata.version("smolagents"))
