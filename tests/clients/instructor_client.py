"""instructor in its modes for OpenAI-compatible servers: python instructor_client.py BASE_URL [scripted]."""

import importlib.metadata
import sys

import anthropic
import instructor
import openai
from instructor import Mode
from scene import LIVES, Person, check_person

BASE = sys.argv[1]
# Modes that put the schema on the wire.
MODES = [Mode.TOOLS, Mode.TOOLS_STRICT, Mode.JSON_SCHEMA, Mode.RESPONSES_TOOLS]
ask = {"model": "m", "messages": [{"role": "user", "content": LIVES}], "max_retries": 0}


def client(mode):
    return instructor.from_openai(openai.OpenAI(base_url=BASE + "/v1", api_key="EMPTY", max_retries=0), mode=mode)


for mode in MODES:
    check_person(client(mode).create(response_model=Person, **ask))
for mode in (Mode.TOOLS, Mode.JSON_SCHEMA):
    *_, last = client(mode).create_partial(response_model=Person, **ask)
    check_person(Person.model_validate(last.model_dump()))
claude = instructor.from_anthropic(anthropic.Anthropic(base_url=BASE, api_key="EMPTY", max_retries=0))
check_person(claude.create(response_model=Person, max_tokens=500, **ask))

print("passed: instructor", importlib.metadata.version("instructor"))
