"""LangChain's chat model over chat completions and over Responses: python langchain_client.py BASE_URL [scripted]."""

import importlib.metadata
import sys

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from scene import ANSWER, HELLO, LIVES, WEATHER, Person, check_person, get_weather

BASE = sys.argv[1]
get_weather = tool(get_weather)

for over_responses in (False, True):
    llm = ChatOpenAI(
        base_url=BASE + "/v1", api_key="EMPTY", model="m", max_retries=0, use_responses_api=over_responses
    )
    assert llm.invoke(HELLO).text.startswith("Hello!")
    assert "".join(chunk.text for chunk in llm.stream(HELLO)).startswith("Hello!")
    assert all(answer.text.startswith("Hello!") for answer in llm.batch([HELLO, HELLO]))

    for choice in (None, "any", "get_weather"):
        caller = llm.bind_tools([get_weather], tool_choice=choice)
        asked = [HumanMessage(WEATHER)]
        called = caller.invoke(asked)
        [call] = called.tool_calls
        assert (call["name"], call["args"]["city"]) == ("get_weather", "Paris"), call
        history = [*asked, called, ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])]
        assert llm.bind_tools([get_weather]).invoke(history).text.strip() == ANSWER
    streamed = None
    for chunk in llm.bind_tools([get_weather]).stream(WEATHER):
        streamed = chunk if streamed is None else streamed + chunk
    assert [call["args"]["city"] for call in streamed.tool_calls] == ["Paris"], streamed

    for method in ("json_schema", "function_calling"):
        check_person(llm.with_structured_output(Person, method=method).invoke(LIVES))

print("passed: langchain-openai", importlib.metadata.version("langchain-openai"))
