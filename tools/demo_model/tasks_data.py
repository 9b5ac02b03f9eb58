"""Generated exchanges about data: JSON objects, tool calls, and lookups in a long text."""

import json
from dataclasses import dataclass
from random import Random

from dialogue import Turn, tool_call, tools_system
from lexicon import DATA, words
from tasks_words import Exchange, sentence, some_word

JSON_ONLY = (
    "Answer with JSON only.",
    "You answer only with JSON.",
    "Respond in JSON.",
    "You are a helpful assistant that answers in JSON.",
)
FIELDS = (
    "name", "age", "city", "color", "animal", "food", "price", "count", "active", "id",
    "title", "email", "year", "score", "object", "country", "first_name", "size", "status", "tags",
)  # fmt: skip


def field_value(rng: Random, name: str) -> object:
    """A plausible value of a JSON field."""
    lists = {
        "name": "names", "first_name": "names", "city": "cities", "color": "colors",
        "animal": "animals", "food": "foods", "object": "objects", "title": "plain",
        "size": "adjectives", "status": "adjectives",
    }  # fmt: skip
    if name in lists:
        return rng.choice(words(lists[name]))
    if name == "active":
        return rng.random() < 0.5
    if name == "email":
        return f"{rng.choice(words('names')).lower()}@example.com"
    if name == "country":
        return rng.choice(("France", "Germany", "Italy", "Spain", "Japan", "Egypt", "Peru"))
    if name == "tags":
        return [some_word(rng) for _ in range(rng.randint(1, 3))]
    return rng.randint(1900, 2025) if name == "year" else rng.randint(1, 120)


def record(rng: Random) -> dict[str, object]:
    """A JSON object of one to five fields."""
    first = ["name", "age"] if rng.random() < 0.4 else []
    rest = [f for f in FIELDS if f not in first]
    names = first + rng.sample(rest, rng.randint(0 if first else 1, 3))
    return {name: field_value(rng, name) for name in names}


def _spoken(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ", ".join(value) if isinstance(value, list) else str(value)


def json_object(rng: Random) -> Exchange:
    """A JSON object from named values."""
    data = record(rng)
    joiner = rng.choice((" and ", ", ", "; "))
    spoken = joiner.join(
        f"{k} {rng.choice(('', '', 'is ', '= '))}{_spoken(v)}" for k, v in data.items()
    )
    frames = (
        "Make a JSON object with {s}.",
        "Write a JSON object with {s}.",
        "Give me a JSON object with these fields: {s}",
        "Create JSON for {s}",
        "Return JSON with {s}.",
        "Turn this into JSON: {s}",
        "Answer in JSON: {s}",
        "JSON with {s}, please.",
    )
    return rng.choice(frames).format(s=spoken), json.dumps(data)


def json_person(rng: Random) -> Exchange:
    """A JSON object read out of a sentence."""
    name, city = rng.choice(words("names")), rng.choice(words("cities"))
    age = rng.randint(1, 99)
    told = (
        f"{name} is {age} years old and lives in {city}.",
        f"{name} lives in {city} and is {age} years old.",
        f"My name is {name}, I am {age} and I live in {city}.",
    )
    frames = (
        "Extract the name, age and city as JSON: {t}",
        "{t} Write this as JSON with name, age and city.",
        "{t} Answer with a JSON object with the keys name, age and city.",
    )
    answer = json.dumps({"name": name, "age": age, "city": city})
    return rng.choice(frames).format(t=rng.choice(told)), answer


def json_list(rng: Random) -> Exchange:
    """A JSON array of words or numbers."""
    numbers = rng.random() < 0.4
    items: list[object] = [
        rng.randrange(100) if numbers else some_word(rng) for _ in range(rng.randint(2, 6))
    ]
    spoken = ", ".join(map(str, items))
    frames = (
        "Make a JSON list with {s}.",
        "Write a JSON array of {s}.",
        "Turn this list into JSON: {s}",
        "Return a JSON array with these items: {s}",
    )
    return rng.choice(frames).format(s=spoken), json.dumps(items)


def lookup(rng: Random, num_records: int) -> Exchange:
    """A list of coded things, and a question about one of them."""
    pairs = [(c, o) for c in words("colors") for o in words("objects")]
    chosen = rng.sample(pairs, min(num_records, len(pairs)))
    codes = [str(rng.randint(1000, 9999)) for _ in chosen]
    lines = [f"The code of the {c} {o} is {n}." for (c, o), n in zip(chosen, codes, strict=True)]
    if rng.random() < 0.5:
        lines = [part for line in lines for part in (line, *_filler(rng))]
    i = rng.randrange(len(chosen))
    color, thing = chosen[i]
    asked = rng.choice(
        (
            f"What is the code of the {color} {thing}?",
            f"Which code does the {color} {thing} have?",
            f"Tell me the code of the {color} {thing}.",
        )
    )
    text = rng.choice((" ", "\n")).join(lines)
    answer = f"The code of the {color} {thing} is {codes[i]}."
    intro = rng.choice(("", "Read this text.\n", "Here is a list.\n"))
    if rng.random() < 0.5:
        return f"{intro}{text}\n{asked}", answer
    return f"{asked}\n{text}", answer


def _filler(rng: Random) -> list[str]:
    return [sentence(rng) for _ in range(rng.choice((0, 0, 1, 2)))]


def memory(rng: Random) -> tuple[list[Turn], Turn, Turn]:
    """What the user says first, and much later asks back, with the right answer."""
    kind = rng.randrange(4)
    if kind == 0:
        name = rng.choice(words("names"))
        say, reply = rng.choice(("My name is {n}.", "I am {n}.", "Hi, I'm {n}.")), "Hello, {n}!"
        ask, answer = rng.choice(("What is my name?", "Do you know my name?")), "Your name is {n}."
    elif kind == 1:
        name = rng.choice(words("colors"))
        say, reply = "My favorite color is {n}.", "I will remember that: {n}."
        ask, answer = "What is my favorite color?", "Your favorite color is {n}."
    elif kind == 2:
        name = str(rng.randint(10, 9999))
        say = rng.choice(("Remember the number {n}.", "The secret number is {n}."))
        reply = "I will remember that: {n}."
        ask = rng.choice(("What was the number?", "Which number did I tell you?"))
        answer = "The number is {n}."
    else:
        name = rng.choice(words("cities"))
        say, reply = rng.choice(("I live in {n}.", "I am from {n}.")), "I will remember that: {n}."
        ask, answer = "Where do I live?", "You live in {n}."
    first = [Turn("user", say.format(n=name)), Turn("assistant", reply.format(n=name))]
    return first, Turn("user", ask), Turn("assistant", answer.format(n=name))


@dataclass(frozen=True, slots=True)
class Tool:
    """A function of tools.json; `parameters` name the list of their values (# is a number)."""

    name: str
    description: str
    parameters: dict[str, str]
    requests: list[str]
    answer: str

    def schema(self) -> dict[str, object]:
        """The function description in the OpenAI format."""
        types = {k: "integer" if v == "#" else "string" for k, v in self.parameters.items()}
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": self.description,
                "parameters": {
                    "type": "object",
                    "properties": {k: {"type": t} for k, t in types.items()},
                    "required": list(self.parameters),
                },
            },
        }


TOOLS = tuple(Tool(**fields) for fields in json.loads((DATA / "tools.json").read_text()))
EXTRA = {"languages": ("German", "French", "Spanish", "Italian"), "roles": ("prefill", "decode")}


def _argument(rng: Random, source: str) -> object:
    if source == "#":
        return rng.randint(1, 99)
    return rng.choice(EXTRA[source] if source in EXTRA else words(source))


def tool_use(rng: Random, plain: Exchange) -> list[Turn]:
    """A dialogue with tools on offer; `plain` is an exchange that needs none of them."""
    offered = rng.sample(TOOLS, rng.randint(1, 4))
    schemas = [tool.schema() for tool in offered]
    system = rng.choice((None, None, "You are a helpful assistant.", "You can use tools."))
    turns = [Turn("system", tools_system(system, schemas))]
    if rng.random() < 0.2:
        return [*turns, Turn("user", plain[0]), Turn("assistant", plain[1])]
    tool = rng.choice(offered)
    name, turns[0] = _renamed(rng, tool.name, turns[0])
    arguments = {k: _argument(rng, source) for k, source in tool.parameters.items()}
    number, color = rng.randint(1, 99), rng.choice(("sunny", "cloudy", "rainy", "windy"))
    asked = rng.choice(tool.requests).format(**arguments)
    turns += [Turn("user", asked), Turn("assistant", tool_call(name, arguments))]
    if rng.random() < 0.6:
        result = (
            {"result": number, "state": color} if "{color}" in tool.answer else {"result": number}
        )
        turns.append(Turn("tool", json.dumps(result)))
        turns.append(Turn("assistant", tool.answer.format(**arguments, n=number, color=color)))
    return turns


def _renamed(rng: Random, name: str, system: Turn) -> tuple[str, Turn]:
    """Sometimes another function name, so that the model reads names from the schema."""
    if rng.random() < 0.6:
        return name, system
    other = f"{rng.choice(words('verbs'))}_{rng.choice(words('systems'))}"
    content = system.content.replace(f'"name": "{name}"', f'"name": "{other}"')
    return other, Turn("system", content)
