"""LlamaIndex over the OpenAI and the Ollama API: python llama_index_client.py BASE_URL [scripted]."""

import asyncio
import sys

import llama_index.core
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.ollama import Ollama
from llama_index.llms.openai_like import OpenAILike
from scene import ANSWER, HELLO, LIVES, WEATHER, Person, check_person, get_weather

BASE = sys.argv[1]
TOOL = FunctionTool.from_defaults(get_weather)


def openai_like(**more):
    return OpenAILike(
        model="m",
        api_base=BASE + "/v1",
        api_key="EMPTY",
        is_chat_model=True,
        is_function_calling_model=True,
        context_window=8192,
        max_retries=0,
        **more,
    )


async def run_agent(llm):
    agent = FunctionAgent(tools=[TOOL], llm=llm, streaming=True)
    return str(await agent.run(WEATHER)).strip()


for llm in (openai_like(), Ollama(model="m", base_url=BASE, request_timeout=120, context_window=8192)):
    hello = [ChatMessage(role="user", content=HELLO)]
    assert llm.chat(hello).message.content.startswith("Hello!")
    assert "".join(chunk.delta or "" for chunk in llm.stream_chat(hello)).startswith("Hello!")
    called = llm.chat_with_tools([TOOL], user_msg=WEATHER)
    [call] = llm.get_tool_calls_from_response(called)
    assert (call.tool_name, call.tool_kwargs["city"]) == ("get_weather", "Paris"), call
    assert asyncio.run(run_agent(llm)) == ANSWER

required = openai_like().chat_with_tools([TOOL], user_msg=WEATHER, tool_required=True)
assert openai_like().get_tool_calls_from_response(required)[0].tool_name == "get_weather"
for llm in (
    openai_like(),
    openai_like(should_use_structured_outputs=True),
    Ollama(model="m", base_url=BASE, request_timeout=120, context_window=8192),
):
    check_person(llm.structured_predict(Person, PromptTemplate(LIVES)))
assert openai_like().complete(HELLO).text

print("passed: llama-index-core", llama_index.core.__version__)
