"""What the frameworks' scripts ask of a model, and what comes of it: python NAME_client.py BASE_URL [scripted].

The model is the shipped one, or one that a test has answer what a large model would: that one finds the right answers.
"""

import json
import sys

from pydantic import BaseModel

HELLO = "Hello"
WEATHER = "What is the weather in Paris?"
ANSWER = "It is sunny in Paris, with 18 degrees."
SCRIPTED = "scripted" in sys.argv[2:]
LIVES = "Anna is 30 and lives in Kiel. Who is it?"


class Person(BaseModel):
    """A person."""

    name: str
    age: int


def get_weather(city: str) -> str:
    """Get the weather in a city

    Args:
        city: Name of the city
    """
    assert city == "Paris", city
    return json.dumps({"temperature": 18, "condition": "sunny"})


def check_person(person):
    """A whole answer of the schema; the shipped model, so small, does not find the right one."""
    assert isinstance(person, Person), person
    assert not SCRIPTED or (person.name, person.age) == ("Anna", 30), person
