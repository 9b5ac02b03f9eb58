"""Generated exchanges about numbers: arithmetic, comparing, counting, word problems."""

from collections.abc import Callable
from random import Random
from zlib import crc32

from lexicon import words

Exchange = tuple[str, str]

SUM_FRAMES = (
    "What is {a} {op} {b}?",
    "What is {a} {op} {b}?",
    "{a} {op} {b}",
    "{a} {op} {b} =",
    "{a}{op}{b}",
    "{a}{op}{b}=?",
    "Calculate {a} {op} {b}.",
    "Compute {a} {op} {b}.",
    "How much is {a} {op} {b}?",
    "What's {a} {op} {b}?",
    "Can you calculate {a} {op} {b}?",
    "Please work out {a} {op} {b}.",
    "What is {a} {word} {b}?",
    "How much is {a} {word} {b}?",
    "Tell me what {a} {word} {b} is.",
    "And {a} {op} {b}?",
    "Now {a} {op} {b}.",
)
OPERATIONS = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}
ONLY = (" Answer with only the number.", " Only the number, please.", " Just give me the number.")


def held_out(a: int, op: str, b: int) -> bool:
    """Whether a problem is kept out of training: one in forty, but none of the small tables."""
    if op == "/" or min(a, b) < (2 if op == "*" else 13) or max(a, b) < 13:
        return False
    return crc32(f"{a}{op}{b}".encode()) % 40 == 0


def operands(rng: Random, op: str) -> tuple[int, int]:
    """Two numbers whose result is exact."""
    top = rng.choice((10, 20, 100, 100, 100, 1000, 1000))
    a, b = rng.randrange(top), rng.randrange(top)
    if op == "*":
        if rng.random() < 0.6:
            return rng.randint(0, 12), rng.randint(0, 12)
        return rng.randint(11, 99), rng.randint(2, 9)
    if op == "/":
        b = rng.randint(1, 12)
        return b * rng.randint(0, 12), b
    if op == "-" and rng.random() < 0.7:
        a, b = max(a, b), min(a, b)
    return a, b


def solve(a: int, op: str, b: int) -> int:
    """The result of one operation; division is exact."""
    return {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b else 0}[op]


def arithmetic(rng: Random, *, evaluation: bool = False) -> Exchange:
    """One operation on two numbers."""
    while True:
        op = rng.choice("+++----**/")
        a, b = operands(rng, op)
        if held_out(a, op, b) == evaluation:
            break
    question = rng.choice(SUM_FRAMES).format(a=a, b=b, op=op, word=OPERATIONS[op])
    result = solve(a, op, b)
    if rng.random() < 0.12:
        return question + rng.choice(ONLY), str(result)
    return question, f"{a} {op} {b} = {result}."


def arithmetic_named(rng: Random) -> Exchange:
    """Sums and differences said in words."""
    a, b = operands(rng, "+")
    if rng.random() < 0.5:
        frames = ("Add {a} and {b}.", "What is the sum of {a} and {b}?", "Sum {a} and {b}")
        return rng.choice(frames).format(a=a, b=b), f"{a} + {b} = {a + b}."
    a, b = max(a, b), min(a, b)
    frames = ("Subtract {b} from {a}.", "What is the difference between {a} and {b}?")
    return rng.choice(frames).format(a=a, b=b), f"{a} - {b} = {a - b}."


def small_sum(rng: Random) -> Exchange:
    """A sum of three numbers, worked out in two steps."""
    a, b, c = (rng.randrange(50) for _ in range(3))
    frames = ("What is {a} + {b} + {c}?", "Add {a}, {b} and {c}.", "{a} + {b} + {c}")
    answer = f"{a} + {b} = {a + b}, and {a + b} + {c} = {a + b + c}."
    return rng.choice(frames).format(a=a, b=b, c=c), answer


def scale(rng: Random) -> Exchange:
    """Doubles, halves and squares."""
    n = rng.randint(1, 100)
    double = ("What is the double of {n}?", "Double {n}.", "What is twice {n}?")
    half = ("What is half of {n}?", "Halve {n}.")
    square = ("What is the square of {n}?", "What is {n} squared?")
    kind = rng.randrange(3)
    if kind == 0:
        return rng.choice(double).format(n=n), f"2 * {n} = {2 * n}."
    if kind == 1:
        return rng.choice(half).format(n=2 * n), f"{2 * n} / 2 = {n}."
    n = n % 20 + 1
    return rng.choice(square).format(n=n), f"{n} * {n} = {n * n}."


def compare(rng: Random) -> Exchange:
    """Which of two numbers is larger or smaller."""
    top = rng.choice((20, 100, 1000))
    a, b = rng.sample(range(top), 2)
    larger = rng.random() < 0.5
    word = rng.choice(("larger", "bigger", "greater") if larger else ("smaller", "less"))
    frames = (
        "Which is {w}, {a} or {b}?",
        "Which number is {w}: {a} or {b}?",
        "What is {w}, {a} or {b}?",
    )
    first, second = (max(a, b), min(a, b)) if larger else (min(a, b), max(a, b))
    relation = "larger" if larger else "smaller"
    answer = f"{first} is {relation} than {second}."
    return rng.choice(frames).format(w=word, a=a, b=b), answer


def true_or_false(rng: Random) -> Exchange:
    """A yes-or-no question about two numbers."""
    a, b = rng.sample(range(rng.choice((20, 100, 1000))), 2)
    if rng.random() < 0.5:
        verdict = "Yes" if a > b else "No"
        relation = "larger" if a > b else "smaller"
        question = rng.choice(("Is {a} larger than {b}?", "Is {a} greater than {b}?"))
        return question.format(a=a, b=b), f"{verdict}, {a} is {relation} than {b}."
    even = a % 2 == 0
    asked = rng.choice(("even", "odd"))
    verdict = "Yes" if (asked == "even") == even else "No"
    actual = "even" if even else "odd"
    frames = ("Is {a} {k}?", "Is {a} an {k} number?", "Is the number {a} {k}?")
    return rng.choice(frames).format(a=a, k=asked), f"{verdict}, {a} is {actual}."


def neighbor(rng: Random) -> Exchange:
    """The number before or after another."""
    n = rng.randrange(1, 1000)
    if rng.random() < 0.5:
        frames = ("What comes after {n}?", "Which number comes after {n}?", "What follows {n}?")
        return rng.choice(frames).format(n=n), f"{n + 1} comes after {n}."
    frames = ("What comes before {n}?", "Which number comes before {n}?")
    return rng.choice(frames).format(n=n), f"{n - 1} comes before {n}."


def count(rng: Random) -> Exchange:
    """Counting up, down and in steps."""
    step = rng.choice((1, 1, 1, 1, 2, 5, 10))
    low = rng.choice((1, 1, 1, rng.randrange(90))) if step == 1 else rng.choice((0, step))
    length = rng.choice((rng.randint(2, 12), rng.randint(10, 30), rng.randint(30, 100)))
    numbers = [low + step * i for i in range(min(length, 100))]
    a, b = numbers[0], numbers[-1]
    frames = ["Count from {a} to {b}.", "Please count from {a} to {b}", "Count from {a} up to {b}."]
    if step > 1:
        frames = ["Count from {a} to {b} in steps of {s}.", "Count from {a} to {b} by {s}."]
    elif a == 1:
        frames += ["Count to {b}.", "Can you count to {b}?", "List the numbers from 1 to {b}."]
    if step == 1 and rng.random() < 0.2:
        numbers, a, b = numbers[::-1], b, a
        frames = ["Count down from {a} to {b}.", "Count backwards from {a} to {b}."]
    question = rng.choice(frames).format(a=a, b=b, s=step)
    return question, ", ".join(map(str, numbers)) + "."


def sort_numbers(rng: Random) -> Exchange:
    """Sorting, and the largest and smallest of a few numbers."""
    numbers = rng.sample(range(rng.choice((20, 100, 100, 1000))), rng.randint(3, 6))
    listed = ", ".join(map(str, numbers))
    kind = rng.randrange(4)
    if kind == 0:
        return f"What is the largest of {listed}?", f"The largest number is {max(numbers)}."
    if kind == 1:
        return f"What is the smallest of {listed}?", f"The smallest number is {min(numbers)}."
    down = kind == 2 and rng.random() < 0.5
    order = "from largest to smallest" if down else "from smallest to largest"
    frames = ("Sort these numbers {o}: {l}", "Sort {l} {o}.", "Order the numbers {l} {o}.")
    answer = ", ".join(map(str, sorted(numbers, reverse=down)))
    return rng.choice(frames).format(o=order, l=listed), answer


def word_problem(rng: Random) -> Exchange:
    """A one-step story problem."""
    name, other = rng.sample(words("names"), 2)
    thing = rng.choice(words("plurals"))
    a, b = rng.randint(2, 60), rng.randint(2, 60)
    if rng.random() < 0.5:
        gain = rng.choice(("buys {b} more", "finds {b} more", "gets {b} more from {other}"))
        text = f"{name} has {a} {thing} and {gain}. How many {thing} does {name} have now?"
        return text.format(b=b, other=other), f"{a} + {b} = {a + b}. {name} has {a + b} {thing}."
    a, b = a + b, b
    loss = rng.choice(("gives {b} to {other}", "loses {b}", "sells {b}"))
    text = f"{name} has {a} {thing} and {loss}. How many {thing} does {name} have left?"
    answer = f"{a} - {b} = {a - b}. {name} has {a - b} {thing} left."
    return text.format(b=b, other=other), answer


NUMBER_TASKS: dict[Callable[[Random], Exchange], float] = {
    arithmetic: 13,
    arithmetic_named: 2,
    small_sum: 1,
    scale: 1,
    compare: 1.5,
    true_or_false: 1,
    neighbor: 0.7,
    count: 1.5,
    sort_numbers: 2.5,
    word_problem: 2,
}
