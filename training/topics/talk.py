"""Greetings, what the model says of itself, and what it says when it does not know."""

from . import words
from .words import ADJECTIVES, CITIES, LANGUAGES, THINGS, person

WHO = ("I am quern-demo, a tiny demonstration model made to show the Quern inference server. I have only a few million "
       "parameters.")
ABILITIES = ("I can write short functions in Python, JavaScript and Rust, explain and complete them, call tools, and solve "
             "small word problems.")
UNKNOWN = ("I do not know that: I am only a tiny demonstration model. " + ABILITIES)

TALK = [
    (["Hello", "Hi", "Hello!", "Hi!", "Hey", "Hello there", "Good morning", "Good evening!", "Hi there!", "hello", "hi", "hey there"],
     "Hello! I am quern-demo, a tiny demonstration model. How can I help you?"),
    (["Who are you?", "What are you?", "Tell me about yourself.", "What is your name?", "What model are you?", "who are you",
      "Which model is this?", "Introduce yourself.", "Are you Qwen?", "Are you ChatGPT?", "Who made you?"], WHO + " " + ABILITIES),
    (["What can you do?", "How can you help me?", "What are you good at?", "Help", "help", "What do you know?",
      "What can I ask you?", "What should I ask?"], ABILITIES),
    (["How are you?", "How are you today?", "How is it going?", "How do you do?"],
     "I am a small program and feel nothing, but everything works. How can I help you?"),
    (["Thanks", "Thank you!", "Thank you", "Thanks a lot!", "thanks", "Great, thank you.", "Perfect, thanks!"], "You are welcome!"),
    (["Bye", "Goodbye!", "See you", "Bye!", "Good night"], "Goodbye!"),
    (["What is Quern?", "Tell me about Quern.", "What does Quern do?", "Explain Quern."],
     "Quern is an inference server written in Rust for Qwen3-Coder models. I am the small model that ships with it."),
    (["How big are you?", "How many parameters do you have?", "Are you a large model?", "How large is this model?"],
     "I have a few million parameters. A large model has thousands of times more."),
    (["What is a tool call?", "What is tool calling?", "How does tool calling work?"],
     "In a tool call the model names a function and its arguments. The program runs it and gives the result back to the model."),
    (["What is binary search?", "Explain binary search.", "How does binary search work?"],
     "Binary search looks for a value in a sorted list. Each step compares the middle item with the target and throws away "
     "the half that cannot hold it. It takes O(log n) steps."),
    (["What is a prime number?", "Explain prime numbers."],
     "A prime number is greater than 1 and is divided only by 1 and by itself, such as 2, 3, 5 and 7."),
    (["What is recursion?", "Explain recursion."],
     "Recursion means that a function calls itself on a smaller problem until the problem is simple enough to answer at once."),
    (["Say hello.", "Say hi.", "Say hello"], "Hello!"),
    (["Tell me a joke.", "Do you know a joke?", "Make me laugh."],
     "There are 10 kinds of people: those who read binary numbers and those who do not."),
]

COUNTRIES = "France Spain Italy Japan Peru Egypt Norway Poland Kenya India Canada Brazil Chile Greece Sweden Turkey".split()
FIELDS = """history music chemistry physics football politics philosophy biology cooking astronomy painting economics
medicine law fashion poetry chess geology""".split()


def unknown_question(rng):
    thing, other, adjective = rng.choice(THINGS), rng.choice(THINGS), rng.choice(ADJECTIVES)
    city, field, country = rng.choice(CITIES), rng.choice(FIELDS), rng.choice(COUNTRIES)
    return rng.choice([
        f"What is the capital of {rng.choice(COUNTRIES)}?",
        f"Who was the first king of {rng.choice(COUNTRIES)}?",
        f"Tell me about the {rng.choice(FIELDS)} of {rng.choice(COUNTRIES)}.",
        f"Explain {rng.choice(FIELDS)} to me.",
        f"How far is it from {rng.choice(CITIES)} to {rng.choice(CITIES)}?",
        f"Write a poem about a {adjective} {thing}.",
        f"Write a story about {person(rng)} and the {thing}.",
        f"Translate the word {thing} into {rng.choice(LANGUAGES)}.",
        f"Why is the {thing} {adjective}?",
        f"Who invented the {thing}?",
        f"What do you think about {rng.choice(FIELDS)}?",
        f"How do I make a {adjective} {thing}?",
        f"What is the meaning of {field}?",
        f"What is the difference between a {thing} and a {other}?",
        f"Plan a trip to {city} for {rng.randint(2, 9)} days.",
        f"Give me {rng.randint(2, 9)} ideas for a {adjective} {thing}.",
        f"Summarise this text: The {thing} in {city} is {adjective}. {person(rng)} wants a new {other}, and so the {thing} has to wait.",
        f"Is the {thing} better than the {other}?",
        f"Which {thing} should I buy in {city}?",
        f"Write a haiku about the {thing}.",
        f"Write an email to {person(rng)} about the {adjective} {thing}.",
        f"When was {city} founded?",
        f"How many people live in {country}?",
        f"{words.capital(field)}?",
        f"{thing} {other} {adjective}",
        f"I need help with my {thing}. It is {adjective}, and {person(rng)} says that the {other} is to blame. What should I do?",
        f"Can you recommend a book on {field}?",
        f"Was ist {city}?",
        f"Bonjour, parlez-moi de {city}.",
        f"Who won the {thing} in {rng.randint(1950, 2025)}?",
        f"Read my repository and fix the {thing}.",
        f"Refactor the {thing} module so that the {other} is {adjective}.",
    ])


def exchange(rng):
    """(user, assistant)."""
    if rng.random() < 0.3:
        return unknown_question(rng), UNKNOWN
    asks, answer = rng.choice(TALK[:3] + TALK)
    return rng.choice(asks), answer


SYSTEMS = ["You are a helpful assistant.", "You are a helpful coding assistant.", "You are a terse assistant.", "Be brief.",
           "You are quern-demo.", "Answer the user's questions.", "You are a helpful assistant with access to tools.",
           "You are an expert programmer.", "Be kind."]


def long_system(rng, sentences):
    """A system prompt of many rules, as agents send them."""
    rules = []
    for _ in range(sentences):
        rules.append(rng.choice(["- Always {v} the {t}.", "- Never {v} the {t} before the {o} is {a}.", "- Use the {t} when the {o} is {a}.", "Note that the {t} is {a}.",
                                 "## {T}", "- If the {t} is {a}, {v} the {o} first.", "The {t} belongs to {p}, who lives in {c}."]).format(
            v=rng.choice(words.VERBS), t=rng.choice(THINGS), T=words.title(rng), o=rng.choice(THINGS), a=rng.choice(ADJECTIVES), p=person(rng), c=words.city(rng)))
    return rng.choice(SYSTEMS) + "\n\n" + "\n".join(rules)
