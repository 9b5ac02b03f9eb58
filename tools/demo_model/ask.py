"""Paraphrases: question frames for terms, and small changes of wording and spelling."""

from random import Random

from lexicon import Topic, topics, words

UNKNOWN = (
    "I do not know that; I am a small demonstration model. "
    "You can ask me about Baton, simple arithmetic, word games or JSON."
)

FRAMES = (
    "What is {t}?",
    "What is {t}?",
    "What is {t}?",
    "What's {t}?",
    "what is {t}",
    "What is {t} in Baton?",
    "Explain {t}.",
    "Please explain {t}.",
    "Can you explain {t}?",
    "Could you explain what {t} is?",
    "Explain what {t} is.",
    "Explain {t} to me in simple words.",
    "Explain {t} in one or two sentences.",
    "Tell me about {t}.",
    "Can you tell me about {t}?",
    "Can you tell me what {t} is?",
    "Describe {t}.",
    "Please describe {t} briefly.",
    "Define {t}.",
    "I would like to know what {t} is.",
    "I want to understand {t}.",
    "I do not understand {t}.",
    "What do you know about {t}?",
    "Do you know what {t} is?",
    "Give me a short explanation of {t}.",
    "Give a definition of {t}.",
    "What exactly is {t}?",
    "How would you describe {t}?",
    "What is {t}, and what is it for?",
    "{t}?",
    "{t}",
)
PLURAL_FRAMES = (
    "What are {t}?",
    "What are {t}?",
    "What are {t} in Baton?",
    "What are {t} for?",
    "Explain {t}.",
    "Can you explain {t}?",
    "Tell me about {t}.",
    "Describe {t}.",
    "What do you know about {t}?",
    "{t}?",
)
HELD_OUT_FRAMES = (
    "What is meant by {t}?",
    "Help me understand {t}.",
    "Please tell me what {t} is.",
    "Say something about {t}.",
    "I am new here. What is {t}?",
)
LONG_FRAMES = (
    "Explain {t} in detail.",
    "Explain {t} in more detail.",
    "Please explain {t} in detail.",
    "Tell me more about {t}.",
    "Describe {t} in detail.",
    "Give me a long explanation of {t}.",
    "Tell me everything about {t}.",
    "Write a paragraph about {t}.",
)
MORE = (
    "Tell me more.",
    "Tell me more about that.",
    "Can you explain that in more detail?",
    "Please explain in more detail.",
    "More details, please.",
    "Go on.",
    "Can you say more?",
)
PREFIXES = (
    "Hi! ",
    "Hello. ",
    "Hello, ",
    "Hey, ",
    "Please tell me: ",
    "Quick question: ",
    "One more question: ",
    "I have a question. ",
    "So, ",
    "And ",
    "OK. ",
    "Thanks. ",
)
SUFFIXES = (" Please.", " Thanks.", " Thank you!", " Please answer briefly.", " Keep it short.")

UNKNOWN_FRAMES = (
    "Who was {person}?",
    "Who is {person}?",
    "When was {person} born?",
    "What did {person} do?",
    "Tell me about {person}.",
    "How do I cook {dish}?",
    "Give me a recipe for {dish}.",
    "How do you make {dish}?",
    "Who invented {term}?",
    "When was {term} invented?",
    "Why is {term} important?",
    "How does {term} work?",
    "What is {term}?",
    "Explain {term}.",
    "Tell me about {term}.",
    "Can you explain {term}?",
    "Define {term}.",
    "What do you think about {term}?",
    "Write an essay about {topic}.",
    "What is the best book about {topic}?",
    "Tell me a fact about {topic}.",
    "What is your opinion on {topic}?",
    "What is the weather in {city}?",
    "What is the weather today in {city}?",
    "How many people live in {city}?",
    "What is the population of {city}?",
    "How far is {city} from {city2}?",
    "How do I get from {city} to {city2}?",
    "Who is the mayor of {city}?",
    "What is the best restaurant in {city}?",
    "What time is it in {city}?",
    "Which river flows through {city}?",
    "Who won the game in {city} in {year}?",
    "What happened in {year}?",
    "Who was president in {year}?",
    "Who won the world cup in {year}?",
    "What was the best song of {year}?",
    "What time is it?",
    "What day is it today?",
    "What is the date today?",
    "What is the weather like?",
    "What is in the news today?",
    "How tall is {person}?",
    "How old is {person}?",
    "Where does {name} live?",
    "What is the phone number of {name}?",
    "What is {name}'s favorite {food}?",
    "Who is {name}'s best friend?",
    "How much does a {object} cost?",
    "What is the price of a {object}?",
    "Where can I buy a {object}?",
    "Who invented the {object}?",
    "How do I repair a {object}?",
    "How long does a {animal} live?",
    "What does a {animal} eat?",
    "How fast can a {animal} run?",
    "Why do {animal}s sleep?",
    "Is a {animal} a mammal?",
    "How do I train a {animal}?",
    "Write a Python function that sorts a list.",
    "Write a program in C.",
    "Write code for a web page about {topic}.",
    "Fix the bug in my program.",
    "Translate {word} into German.",
    "Translate this into French: the {adjective} {animal}.",
    "How do you say {word} in Spanish?",
    "What is the square root of {number}?",
    "Solve the equation x + {number} = y.",
    "What is the derivative of x squared?",
    "Should I buy stocks of a {topic} company?",
    "I have a headache. What should I take?",
    "Can I sue my neighbor?",
    "What should I wear today?",
    "Recommend a movie about {topic}.",
    "Recommend a book.",
    "Why is the sky blue?",
    "Why is the {object} {color}?",
    "How many stars are there?",
    "How big is the moon?",
    "What is the tallest mountain?",
    "What is the longest river in the world?",
    "Who wrote the book about the {adjective} {animal}?",
    "Sing a song about {topic}.",
    "What is the secret of {topic}?",
)


def vary(rng: Random, question: str) -> str:
    """A question with the small changes that people make: case, punctuation, politeness, typos."""
    if rng.random() < 0.12:
        question = rng.choice(PREFIXES) + question
    if rng.random() < 0.05 and question[-1:] in "?.!":
        question += rng.choice(SUFFIXES)
    if rng.random() < 0.15:
        question = question[0].lower() + question[1:]
    if rng.random() < 0.06:
        question = question.lower()
    if rng.random() < 0.2:
        question = question.rstrip("?.!")
    return _typo(rng, question) if rng.random() < 0.05 else question


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
        frame.format(t=term)
        for term, frame in zip(topic.terms, HELD_OUT_FRAMES, strict=False)
    ]
    return topic.held_out + framed


def unknown(rng: Random) -> str:
    """A question outside the model's knowledge."""
    one = {
        name: rng.choice(words(source))
        for name, source in {
            "person": "people", "dish": "dishes", "term": "unknown_terms", "topic": "topics",
            "city": "cities", "city2": "cities", "name": "names", "food": "foods",
            "object": "objects", "animal": "animals", "adjective": "adjectives",
            "word": "plain", "color": "colors",
        }.items()
    }  # fmt: skip
    frame = rng.choice(UNKNOWN_FRAMES)
    text = frame.format(**one, year=rng.randint(1900, 2025), number=rng.randint(2, 999))
    return _capital(text)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def fact_topics() -> tuple[Topic, ...]:
    """Every topic that the model can answer from memory."""
    return topics("facts.txt") + topics("identity.txt")
