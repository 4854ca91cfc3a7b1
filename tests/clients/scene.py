"""What the frameworks' scripts ask of the shipped model, small and greedy, and what comes of it."""

import json

from pydantic import BaseModel

HELLO = "Hello"
WEATHER = "What is the weather in Paris?"
ANSWER = "It is sunny in Paris, with 18 degrees."
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
    """A whole answer of the schema; a model so small does not find the right one."""
    assert isinstance(person, Person), person
