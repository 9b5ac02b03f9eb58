"""The dialogues shown in TRAINING.md: what the user says, turn by turn."""

DIALOGUES: tuple[tuple[str, ...], ...] = (
    ("Hello!", "What can you do?", "Thanks!"),
    ("Who are you?", "How big are you?"),
    ("hey what is baton anyway",),
    ("What is Baton?", "Tell me more."),
    ("What is the difference between prefill and decode?",),
    ("Explain the router in detail.",),
    ("How do I start it?", "And which ports are used?", "How do I stop it again?"),
    ("What happens if a decode worker dies while I am reading an answer?",),
    ("Why do leases exist?",),
    ("What is 27 + 58?", "And 120 - 45?", "What is 7 times 8? Answer with only the number."),
    ("Anna has 12 apples and buys 9 more. How many apples does she have now?",),
    ("Which is larger, 312 or 321?", "Is 17 even?"),
    ("Count from 1 to 20.", "Count down from 10 to 1."),
    ("Repeat after me: the quick brown fox jumps over the lazy dog",),
    (
        "Reverse the order of these words: red green blue yellow",
        "Write this in uppercase: quiet river",
    ),
    ("Make a JSON object with name Anna and age 31.", "Turn this list into JSON: cup, key, stone"),
    ("SYSTEM Answer with JSON only.", "name Omar, city Lima, age 44"),
    ("My name is Clara.", "What is the capital of France?", "What is my name?"),
    ("Tell me a short story about a fox and an owl.", "Tell me a joke."),
    ("Who won the world cup in 1998?", "Can you write me a Python program?", "Write a haiku."),
    ("Explain Baton in great detail.",),
)
