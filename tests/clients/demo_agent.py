"""An agent of forty lines on the shipped model: python demo_agent.py BASE_URL, in an empty folder.

The model is small, the rest is real: it reads a file, changes it and says so, by tools that this script carries out.
"""

import json
import pathlib
import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="EMPTY", max_retries=0)
FILE = pathlib.Path("notes.txt")
FILE.write_text("Buy bread\n")


def tool(name, description, **properties):
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


PATH = {"type": "string", "description": "Path of the file"}
TEXT = {"type": "string", "description": "The text of the message"}
TOOLS = [tool("find_notes", "Find notes", path=PATH), tool("update_note", "Update a note", path=PATH, text=TEXT)]


def carry_out(name, arguments):
    path = pathlib.Path(arguments["path"])
    assert path == FILE, path
    if name == "find_notes":
        return json.dumps({"results": path.read_text().splitlines()})
    path.write_text(arguments["text"])
    return json.dumps({"status": "ok"})


def ask(messages, request):
    """Stream until the model answers in words; the calls that it made on the way."""
    messages.append({"role": "user", "content": request})
    calls = []
    for _ in range(4):
        with client.chat.completions.stream(model="quern-demo", messages=messages, tools=TOOLS, temperature=0) as stream:
            message = stream.get_final_completion().choices[0].message
        messages.append(message.model_dump(exclude_none=True))
        if not message.tool_calls:
            print(">", request, "\n ", message.content)
            return calls
        for call in message.tool_calls:
            result = carry_out(call.function.name, json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
            calls.append(call.function.name)
    raise SystemExit("it goes on calling")


conversation = []
assert ask(conversation, "Find notes at the path notes.txt") == ["find_notes"]
assert "Buy bread" in conversation[-1]["content"], "it says what it has read"
assert ask(conversation, 'Update the note at the path notes.txt with the text "Buy cheese"') == ["update_note"]
assert FILE.read_text() == "Buy cheese"
print("passed: an agent on the shipped model")
