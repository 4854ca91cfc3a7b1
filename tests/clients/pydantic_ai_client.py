"""Pydantic AI over chat completions, Responses and Anthropic's API: python pydantic_ai_client.py BASE_URL [scripted]."""

import asyncio
import sys

import pydantic_ai
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider
from scene import ANSWER, HELLO, LIVES, WEATHER, Person, check_person, get_weather

BASE = sys.argv[1]
openai = OpenAIProvider(base_url=BASE + "/v1", api_key="EMPTY")
MODELS = {
    "chat": OpenAIChatModel("m", provider=openai),
    "responses": OpenAIResponsesModel("m", provider=openai),
    "anthropic": AnthropicModel("m", provider=AnthropicProvider(base_url=BASE, api_key="EMPTY")),
}


async def main():
    for name, model in MODELS.items():
        assert (await Agent(model).run(HELLO)).output.startswith("Hello!")
        async with Agent(model).run_stream(HELLO) as stream:
            assert (await stream.get_output()).startswith("Hello!")
        result = await Agent(model, tools=[get_weather]).run(WEATHER)
        assert result.output.strip() == ANSWER, (name, result.output)
        assert result.usage.requests == 2 and result.usage.output_tokens > 0
        # Its own tool is required: this is `tool_choice: required`.
        check_person((await Agent(model, output_type=ToolOutput(Person)).run(LIVES)).output)
        if name != "anthropic":
            check_person((await Agent(model, output_type=NativeOutput(Person)).run(LIVES)).output)


asyncio.run(main())
print("passed: pydantic-ai", pydantic_ai.__version__)
