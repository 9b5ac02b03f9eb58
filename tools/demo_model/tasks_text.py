"""Generated stories, letters and plain text without chat marks."""

from random import Random

from ask import UNKNOWN, fact_topics
from dialogue import END_OF_TEXT, Segment
from lexicon import words
from tasks_words import Exchange, sentence

OPENINGS = (
    "Once upon a time there was a {adj} {hero} who lived in a {place}.",
    "In a {adj2} {place} there lived a {adj} {hero} named {name}.",
    "{name} was a {adj} {hero} who lived near a {place}.",
)
WISHES = (
    "Every day the {hero} looked for a {color} {thing}.",
    "The {hero} had lost a {color} {thing} and wanted to find it again.",
    "More than anything, the {hero} wanted a {color} {thing}.",
)
MEETINGS = (
    "One morning the {hero} met a {adj3} {friend} by the {place2}.",
    "One day a {adj3} {friend} came to the {place}.",
    "On the way to the {place2} the {hero} met a {adj3} {friend}.",
)
TALKS = (
    '"Have you seen a {color} {thing}?" asked the {hero}.',
    '"I am looking for a {color} {thing}," said the {hero}.',
)
HELPS = (
    '"I have seen it in the {place2}," said the {friend}, "and I will show you the way."',
    '"Come with me," said the {friend}. "I think it is in the {place2}."',
)
TRIPS = (
    "They walked together until the sun went down.",
    "They walked through the rain and did not give up.",
    "It was a long way, but the {friend} told good stories.",
)
ENDS = (
    "Under an old tree they found the {color} {thing}, and the {hero} was very happy.",
    "Behind a big stone lay the {color} {thing}. "
    "The {hero} thanked the {friend} with all its heart.",
)
MORALS = (
    "From that day on they were friends.",
    "They shared some {food} and laughed until night came.",
    "And from then on the {hero} was never alone again.",
)
PLACE_ADJECTIVES = ("quiet", "dark", "big", "small", "cold", "bright", "warm")
SHARED_FOODS = ("bread", "cheese", "soup", "cake", "rice", "honey", "butter")
STORY_FRAMES = (
    "Write a story about a {hero}.",
    "Write a short story about a {hero}.",
    "Tell me a story about a {hero}.",
    "Tell me a short story about a {hero} and a {friend}.",
    "Write a story about a {hero} and a {color} {thing}.",
    "Can you tell me a story about a {adj} {hero}?",
    "Tell me a story.",
    "Write a short story.",
    "Tell me a bedtime story.",
)


def story_parts(rng: Random) -> dict[str, str]:
    """The names and things of one story."""
    hero, friend = rng.sample(words("animals"), 2)
    adj, adj3 = rng.sample([a for a in words("adjectives") if a[0] not in "aeiou"], 2)
    animals = [a for a in (hero, friend) if a[0] not in "aeiou"]
    hero, friend = (animals + ["fox", "bear"])[:2] if len(animals) < 2 else (hero, friend)
    place, place2 = rng.sample([p for p in words("places") if p[0] not in "aeiou"], 2)
    colors = [c for c in words("colors") if c[0] not in "aeiou"]
    return {
        "hero": hero,
        "friend": friend,
        "adj": adj,
        "adj2": rng.choice(PLACE_ADJECTIVES),
        "adj3": adj3,
        "place": place,
        "place2": place2,
        "color": rng.choice(colors),
        "thing": rng.choice(words("objects")),
        "name": rng.choice(words("names")),
        "food": rng.choice(SHARED_FOODS),
    }


def story(rng: Random) -> Exchange:
    """A request for a story, and a story of six to eight sentences."""
    parts = story_parts(rng)
    beats = (OPENINGS, WISHES, MEETINGS, TALKS, HELPS, TRIPS, ENDS, MORALS)
    told = " ".join(rng.choice(beat).format(**parts) for beat in beats)
    return rng.choice(STORY_FRAMES).format(**parts), told


def sentences(rng: Random) -> Exchange:
    """A request for one sentence that holds a given word."""
    for _ in range(20):
        text = sentence(rng)
        held = [w for w in text.rstrip(".").lower().split() if w in words("objects")]
        held += [w for w in text.rstrip(".").lower().split() if w in words("animals")]
        if held:
            frames = ("Write a sentence with the word {w}.", "Use the word {w} in a sentence.")
            return rng.choice(frames).format(w=rng.choice(held)), text
    return "Write a sentence.", "The small fox lives near the river."


def letter(rng: Random) -> Exchange:
    """A short letter or mail from one person to another."""
    sender, receiver = rng.sample(words("names"), 2)
    thing, place = rng.choice(words("objects")), rng.choice(words("places"))
    openings = (
        f"Write a short letter from {sender} to {receiver} about a {thing}.",
        f"Write an email to {receiver} about a {thing}. My name is {sender}.",
    )
    body = (
        f"Dear {receiver},\n\nI hope you are well. Today I found your {thing} near the {place}. "
        f"Please tell me when I can bring it to you.\n\nBest wishes,\n{sender}"
    )
    return rng.choice(openings), body


def plain_document(rng: Random) -> list[Segment]:
    """Text without chat marks, for plain completions: facts, stories or sentences."""
    kind = rng.random()
    if kind < 0.6:
        chosen = rng.sample(fact_topics(), rng.randint(1, 5))
        told = [rng.choice([t.answer, t.long_answer or t.answer]) for t in chosen]
        text = "\n\n".join(t for t in told if t != UNKNOWN)
    elif kind < 0.85:
        text = story(rng)[1]
    else:
        text = " ".join(sentence(rng) for _ in range(rng.randint(1, 8)))
    return [Segment(text + END_OF_TEXT, True)]
