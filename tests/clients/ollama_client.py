"""Ollama's Python SDK: python ollama_client.py BASE_URL [scripted]."""

import asyncio
import importlib.metadata
import sys

import ollama
from scene import ANSWER, HELLO, LIVES, WEATHER, Person, check_person, get_weather

BASE = sys.argv[1]
client = ollama.Client(host=BASE)


def user(content):
    return [{"role": "user", "content": content}]


[model] = [each.model for each in client.list().models]
assert client.show(model).capabilities and client.show(model).modelinfo
assert client.ps().models[0].digest
assert client.chat(model, user(HELLO)).message.content.startswith("Hello!")
parts = list(client.chat(model, user(HELLO), stream=True))
assert "".join(part.message.content for part in parts).startswith("Hello!")
assert parts[-1].done and parts[-1].eval_count > 0

messages = user(WEATHER)
message = client.chat(model, messages, tools=[get_weather]).message
[call] = message.tool_calls
assert call.function.name == "get_weather", call
messages += [message, {"role": "tool", "tool_name": "get_weather", "content": get_weather(**call.function.arguments)}]
assert client.chat(model, messages, tools=[get_weather]).message.content.strip() == ANSWER

answer = client.chat(model, user(LIVES), format=Person.model_json_schema()).message.content
check_person(Person.model_validate_json(answer))
assert client.generate(model, HELLO).response
assert client.generate(model, "def f(", suffix="\n    return a\n", options={"num_predict": 8}).done


async def streamed():
    stream = await ollama.AsyncClient(host=BASE).chat(model, user(HELLO), stream=True)
    return "".join([part.message.content async for part in stream])


assert asyncio.run(streamed()).startswith("Hello!")
try:
    client.embed(model, "text")
    raise SystemExit("it was not refused")
except ollama.ResponseError as error:
    assert error.status_code in (400, 501), error

print("passed: ollama", importlib.metadata.version("ollama"))
