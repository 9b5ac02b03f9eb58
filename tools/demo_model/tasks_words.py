"""Generated exchanges about words: copying, reversing, sorting, spelling, listing."""

from collections.abc import Callable
from random import Random

from ask import mixed_word
from lexicon import kinds, pairs, vocabulary, words

Exchange = tuple[str, str]


def some_word(rng: Random) -> str:
    """A word of the vocabulary, a name, or one that does not exist."""
    kind = rng.random()
    if kind < 0.65:
        return rng.choice(vocabulary())
    if kind < 0.75:
        return rng.choice(words("names") + words("cities"))
    return mixed_word(rng)


def sentence(rng: Random) -> str:
    """A simple English sentence with a capital and a full stop."""
    adjective, animal, place = (
        rng.choice(words(name)) for name in ("adjectives", "animals", "places")
    )
    name, thing, color = (rng.choice(words(n)) for n in ("names", "objects", "colors"))
    forms = (
        f"The {adjective} {animal} lives near the {place}.",
        f"{name} has a {color} {thing}.",
        f"{name} puts the {thing} on the {rng.choice(words('objects'))}.",
        f"There is a {adjective} {animal} in the {place}.",
        f"I like the {color} {thing} of {name}.",
        f"{name} and {rng.choice(words('names'))} {rng.choice(words('verbs'))} in the {place}.",
        f"The {thing} is {color} and the {animal} is {adjective}.",
        f"We {rng.choice(words('verbs'))} {rng.choice(words('adverbs'))} at the {place}.",
    )
    return rng.choice(forms)


def text_to_copy(rng: Random) -> str:
    """Text of any kind: sentences, loose words, numbers, codes."""
    kind = rng.randrange(6)
    if kind == 0:
        return " ".join(sentence(rng) for _ in range(rng.randint(1, 3)))
    if kind == 5:
        spoken = [rng.choice(words("common") + vocabulary()) for _ in range(rng.randint(3, 14))]
        text = " ".join(spoken)
        return text.capitalize() + rng.choice(".!?") if rng.random() < 0.5 else text
    if kind == 1:
        return " ".join(some_word(rng) for _ in range(rng.randint(1, 12)))
    if kind == 2:
        return " ".join(
            str(rng.randrange(10 ** rng.randint(1, 5))) for _ in range(rng.randint(1, 8))
        )
    if kind == 3:
        alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
        return "".join(rng.choice(alphabet) for _ in range(rng.randint(3, 12)))
    return sentence(rng)


COPY_FRAMES = (
    "Repeat: {t}",
    "Repeat this: {t}",
    "Repeat after me: {t}",
    "Please repeat the following text: {t}",
    "Repeat the text exactly: {t}",
    "Copy this: {t}",
    "Copy the following text exactly: {t}",
    "Say this: {t}",
    "Say exactly this: {t}",
    "Echo: {t}",
    'Repeat the text "{t}"',
    'Say "{t}"',
    "Write this text again: {t}",
    "Repeat these words: {t}",
    "Answer with this text and nothing else: {t}",
)


def copy(rng: Random) -> Exchange:
    """Repeating a text exactly."""
    text = text_to_copy(rng)
    return rng.choice(COPY_FRAMES).format(t=text), text


def copy_times(rng: Random) -> Exchange:
    """Saying one word several times."""
    word, n = some_word(rng), rng.randint(2, 10)
    frames = ("Say {w} {n} times.", "Repeat the word {w} {n} times.", "Write {w} {n} times.")
    return rng.choice(frames).format(w=word, n=n), " ".join([word] * n)


def _distinct(rng: Random, low: int, high: int) -> list[str]:
    return list(dict.fromkeys(some_word(rng) for _ in range(rng.randint(low, high))))


def reverse(rng: Random) -> Exchange:
    """Reversing the order of words."""
    items = _distinct(rng, 2, 9)
    joiner = rng.choice((" ", ", "))
    frames = (
        "Reverse the order of these words: {t}",
        "Reverse these words: {t}",
        "Write these words in reverse order: {t}",
        "Say these words backwards: {t}",
        "Reverse the list: {t}",
    )
    question = rng.choice(frames).format(t=joiner.join(items))
    return question, joiner.join(reversed(items))


def sort_words(rng: Random) -> Exchange:
    """Sorting words by the alphabet."""
    items = rng.sample(vocabulary(), rng.randint(2, 5))
    frames = (
        "Sort these words alphabetically: {t}",
        "Put these words in alphabetical order: {t}",
        "Sort: {t}",
        "Order these words by the alphabet: {t}",
    )
    return rng.choice(frames).format(t=", ".join(items)), ", ".join(sorted(items))


def letter_case(rng: Random) -> Exchange:
    """Changing words to capital or small letters."""
    text = " ".join(rng.choice(vocabulary()) for _ in range(rng.randint(1, 5)))
    if rng.random() < 0.3:
        frames = ("Write this in lowercase: {t}", "Change to small letters: {t}")
        return rng.choice(frames).format(t=text.upper()), text
    frames = (
        "Write this in uppercase: {t}",
        "Convert to uppercase: {t}",
        "Uppercase: {t}",
        "Write in capital letters: {t}",
        "Change this text to capital letters: {t}",
    )
    return rng.choice(frames).format(t=text), text.upper()


def pick(rng: Random) -> Exchange:
    """The first, last or a numbered word, or the number of words."""
    items = _distinct(rng, 2, 8)
    text = " ".join(items)
    kind = rng.randrange(4)
    if kind == 0:
        return f"What is the first word of this text: {text}", f"The first word is {items[0]}."
    if kind == 1:
        return f"What is the last word of this text: {text}", f"The last word is {items[-1]}."
    if kind == 2:
        n = len(items)
        return f"How many words are in this text: {text}", f"The text has {n} words."
    index = rng.randrange(min(3, len(items)))
    order = ("first", "second", "third")[index]
    question = f"What is the {order} item of this list: {', '.join(items)}"
    return question, f"The {order} item is {items[index]}."


def spell(rng: Random) -> Exchange:
    """Spelling, first letters and lengths of known words."""
    word = rng.choice(vocabulary())
    kind = rng.randrange(4)
    if kind == 0:
        return f"What is the first letter of {word}?", f"The first letter of {word} is {word[0]}."
    if kind == 1:
        n = len(word)
        return f"How many letters does the word {word} have?", f"The word {word} has {n} letters."
    frames = ("Spell {w}.", "Spell the word {w}.", "How do you spell {w}?")
    return rng.choice(frames).format(w=word), "-".join(word)


def list_members(rng: Random) -> Exchange:
    """Naming members of a category, always in the same order."""
    kind, members = rng.choice(list(kinds().items()))
    n = rng.randint(2, len(members))
    chosen = members[:n]
    number = ("", "", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    spelled = number[n] if n < len(number) and rng.random() < 0.5 else str(n)
    frames = ("Name {n} {k}.", "List {n} {k}.", "Give me {n} {k}.", "Can you name {n} {k}?")
    question = rng.choice(frames).format(n=spelled, k=kind)
    if rng.random() < 0.3:
        question = rng.choice((f"Give me a numbered list of {n} {kind}.",
                               f"Make a numbered list of {n} {kind}."))  # fmt: skip
        return question, "\n".join(f"{i}. {m}" for i, m in enumerate(chosen, 1))
    text = f"{', '.join(chosen[:-1])} and {chosen[-1]}."
    return question, text[0].upper() + text[1:]


def sequences(rng: Random) -> Exchange:
    """The alphabet, the days and the months, and what follows what."""
    days, months = kinds()["days of the week"], kinds()["months"]
    kind = rng.randrange(5)
    if kind == 0:
        asked = rng.choice(("Say the alphabet.", "What is the alphabet?", "List the alphabet."))
        return asked, ", ".join(words("letters")) + "."
    if kind == 1:
        asked = rng.choice(("What are the days of the week?", "List the days of the week."))
        return asked, ", ".join(days[:-1]) + f" and {days[-1]}."
    if kind == 2:
        asked = rng.choice(("What are the months of the year?", "List the months."))
        return asked, ", ".join(months[:-1]) + f" and {months[-1]}."
    ring, noun = rng.choice(((days, "day"), (months, "month"), (words("letters"), "letter")))
    i = rng.randrange(len(ring) - 1)
    if kind == 3:
        return f"Which {noun} comes after {ring[i]}?", f"{ring[i + 1]} comes after {ring[i]}."
    return f"Which {noun} comes before {ring[i + 1]}?", f"{ring[i]} comes before {ring[i + 1]}."


def capital(rng: Random) -> Exchange:
    """The capitals of well-known countries."""
    country, city = rng.choice(pairs("capitals"))
    frames = (
        "What is the capital of {c}?",
        "What is the capital of {c}?",
        "What's the capital of {c}?",
        "Which city is the capital of {c}?",
        "Tell me the capital of {c}.",
        "Name the capital of {c}.",
        "Capital of {c}?",
    )
    return rng.choice(frames).format(c=country), f"The capital of {country} is {city}."


def opposite(rng: Random) -> Exchange:
    """Opposites and animal sounds."""
    if rng.random() < 0.25:
        animal, sound = rng.choice(pairs("sounds"))
        asked = rng.choice((f"What sound does a {animal} make?", f"What does a {animal} say?"))
        return asked, f"A {animal} says {sound}."
    a, b = rng.choice(pairs("opposites"))
    a, b = rng.choice(((a, b), (b, a)))
    frames = ("What is the opposite of {a}?", "Give me the opposite of {a}.", "Opposite of {a}?")
    if sum(a in pair for pair in pairs("opposites")) > 1:
        return f"Are {a} and {b} opposites?", f"Yes, {a} and {b} are opposites."
    return rng.choice(frames).format(a=a), f"The opposite of {a} is {b}."


WORD_TASKS: dict[Callable[[Random], Exchange], float] = {
    copy: 5,
    copy_times: 1,
    reverse: 3,
    sort_words: 2,
    letter_case: 2,
    pick: 1.5,
    spell: 1.5,
    list_members: 2,
    sequences: 1,
    capital: 1.5,
    opposite: 1,
}
