"""Paraphrases: question frames for terms, and small changes of wording and spelling."""

import re
from random import Random

from lexicon import Topic, lines, topics, words

UNKNOWN = (
    "I do not know that; I am a small demonstration model. "
    "You can ask me about Baton, simple arithmetic, word games or JSON."
)
FRAMES = lines("frames")
PLURAL_FRAMES = lines("plural_frames")
HELD_OUT_FRAMES = lines("held_out_frames")
LONG_FRAMES = lines("long_frames")
MORE = lines("more")
PREFIXES = lines("prefixes")
SUFFIXES = lines("suffixes")
FILLERS = lines("fillers")
LIGHT_WORDS = frozenset(lines("light_words"))
UNKNOWN_FRAMES = lines("unknown_frames")
SYNONYM_GROUPS = tuple(tuple(w.strip() for w in group.split(",")) for group in lines("synonyms"))
SYNONYMS = tuple(
    (group, re.compile(rf"\b(?:{'|'.join(group)})\b", re.IGNORECASE)) for group in SYNONYM_GROUPS
)


def vary(rng: Random, question: str) -> str:
    """A question with the small changes that people make: case, punctuation, politeness, typos."""
    if rng.random() < 0.15:
        question = f"{rng.choice(PREFIXES)} {question}"
    if rng.random() < 0.06 and question[-1:] in "?.!":
        question = f"{question} {rng.choice(SUFFIXES)}"
    if rng.random() < 0.15:
        question = question[0].lower() + question[1:]
    if rng.random() < 0.12:
        question = question.lower()
    if rng.random() < 0.2:
        question = question.rstrip("?.!")
    return _typo(rng, question) if rng.random() < 0.06 else question


def reword(rng: Random, question: str) -> str:
    """A question in other words: synonyms, left-out and added words, then `vary`."""
    if rng.random() < 0.7:
        question = _synonyms(rng, question)
    kept = question.split(" ")
    if rng.random() < 0.3:
        kept = [w for w in kept if rng.random() > (0.4 if w.lower() in LIGHT_WORDS else 0.04)]
    if rng.random() < 0.12:
        kept.insert(rng.randint(0, len(kept)), rng.choice(FILLERS))
    if rng.random() < 0.04 and len(kept) > 1:
        i = rng.randrange(len(kept) - 1)
        kept[i : i + 2] = kept[i + 1], kept[i]
    return vary(rng, " ".join(kept) or question)


def _synonyms(rng: Random, question: str) -> str:
    for group, pattern in SYNONYMS:
        found = pattern.search(question)
        if found and rng.random() < 0.4:
            new = rng.choice(group)
            new = new[0].upper() + new[1:] if found[0][0].isupper() else new
            question = question[: found.start()] + new + question[found.end() :]
    return question


def _typo(rng: Random, text: str) -> str:
    spots = [i for i in range(1, len(text) - 1) if text[i - 1 : i + 2].isalpha()]
    if not spots:
        return text
    i = rng.choice(spots)
    if rng.random() < 0.5:
        return text[:i] + text[i + 1 :]
    return text[:i] + text[i + 1] + text[i] + text[i + 2 :]


def question(rng: Random, topic: Topic) -> str:
    """One training question for a topic, from its own list or from a frame over its terms."""
    if topic.questions and (rng.random() < 0.6 or not topic.terms + topic.plural_terms):
        return rng.choice(topic.questions)
    term = rng.choice(topic.terms + topic.plural_terms)
    frames = FRAMES if term in topic.terms else PLURAL_FRAMES
    return _capital(rng.choice(frames).format(t=term))


def long_question(rng: Random, topic: Topic) -> str:
    """A question that asks for the long answer of a topic."""
    term = rng.choice(topic.terms) if topic.terms else "that"
    return _capital(rng.choice(LONG_FRAMES).format(t=term))


def held_out_questions(topic: Topic) -> list[str]:
    """The questions on a topic that training never sees."""
    framed = [
        frame.format(t=term) for term, frame in zip(topic.terms, HELD_OUT_FRAMES, strict=False)
    ]
    return topic.held_out + framed


def unknown(rng: Random) -> str:
    """A question outside the model's knowledge."""
    one = {
        name: rng.choice(words(source))
        for name, source in {
            "person": "people", "dish": "dishes", "topic": "topics", "city": "cities",
            "city2": "cities", "name": "names", "food": "foods", "object": "objects",
            "animal": "animals", "adjective": "adjectives", "word": "plain", "color": "colors",
        }.items()
    }  # fmt: skip
    term = unknown_term(rng)
    frame = rng.choice(FRAMES if rng.random() < 0.45 else UNKNOWN_FRAMES).replace("{t}", "{term}")
    year, number = rng.randint(1900, 2025), rng.randint(2, 999)
    return _capital(frame.format(**one, term=term, year=year, number=number))


def unknown_term(rng: Random) -> str:
    """Something that no text of the corpus explains."""
    kind = rng.random()
    noun = rng.choice(words(rng.choice(("plain", "objects", "animals", "foods", "common"))))
    if kind < 0.35:
        return rng.choice(words("unknown_terms"))
    if kind < 0.45:
        return rng.choice(words("people") + words("dishes") + words("topics"))
    if kind < 0.6:
        return f"{rng.choice(('a', 'the', 'my'))} {rng.choice(words('adjectives'))} {noun}"
    if kind < 0.7:
        return f"{rng.choice(('a', 'the', 'my'))} {noun}"
    invented = mixed_word(rng)
    forms = (invented, f"a {invented}", f"the {invented}", f"the {noun} of {invented}",
             f"{invented} {noun}", f"the {invented.capitalize()} {noun.capitalize()}")  # fmt: skip
    return rng.choice(forms)


def mixed_word(rng: Random) -> str:
    """A word that does not exist, from the beginning and the end of two that do."""
    first, second = (
        rng.choice(words(rng.choice(("plain", "common", "objects")))) for _ in range(2)
    )
    middle = rng.choice(("", "", "a", "o", "i", "en", "er", "ol", "ur", "th", "s"))
    return first[: rng.randint(1, 4)] + middle + second[-rng.randint(2, 5) :]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def fact_topics() -> tuple[Topic, ...]:
    """Every topic that the model can answer from memory."""
    return topics("facts.txt") + topics("identity.txt")
