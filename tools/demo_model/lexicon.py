"""Word lists and fact files that the generated corpus is built from."""

import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

DATA = Path(__file__).parent / "data"


@cache
def sections(name: str) -> dict[str, str]:
    """The sections of a data file: their names and their text without comment lines."""
    text = (DATA / name).read_text(encoding="utf-8")
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
    parts = re.split(r"^\[([\w-]+)\]\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@cache
def words(name: str) -> tuple[str, ...]:
    """The comma-separated entries of one list of lexicon.txt."""
    return tuple(w.strip() for w in sections("lexicon.txt")[name].strip().split(","))


@cache
def lines(name: str) -> tuple[str, ...]:
    """The lines of one list of frames.txt."""
    return tuple(sections("frames.txt")[name].strip().splitlines())


@cache
def pairs(name: str) -> tuple[tuple[str, str], ...]:
    """The key=value entries of one list of lexicon.txt."""
    return tuple((key, value) for key, _, value in (w.partition("=") for w in words(name)))


@cache
def kinds() -> dict[str, tuple[str, ...]]:
    """Categories and their members in a fixed order."""
    entries = sections("lexicon.txt")["kinds"].strip().split(";")
    named = (entry.split(":") for entry in entries)
    return {name.strip(): tuple(w.strip() for w in items.split(",")) for name, items in named}


@cache
def vocabulary() -> tuple[str, ...]:
    """All plain lower-case words, for copying and sorting tasks."""
    names = ("colors", "animals", "objects", "places", "foods", "adjectives", "verbs", "adverbs",
             "common")  # fmt: skip
    found = {w for name in (*names, "plain", "systems") for w in words(name)}
    return tuple(sorted(found))


@dataclass(slots=True)
class Topic:
    """One topic of a fact file; an evaluation asks `held_out` and looks for `key` in the answer."""

    name: str
    terms: list[str] = field(default_factory=list)
    plural_terms: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)
    answer: str = ""
    long_answer: str = ""
    key: str = ""


@cache
def topics(name: str) -> tuple[Topic, ...]:
    """The topics of facts.txt or identity.txt; the file itself explains its marks."""
    found = tuple(_topic(title, text) for title, text in sections(name).items())
    for topic in found:
        more = _topic(topic.name, sections("more_questions.txt").get(topic.name, ""))
        topic.questions += [q for q in more.questions if q not in topic.held_out]
    return found


def _topic(title: str, text: str) -> Topic:
    topic = Topic(title)
    lists = {"?": topic.questions, "~": topic.held_out}
    # A mark stands at the start of a line; lines without one continue the text before them.
    for mark, body in re.findall(r"^(tp:|t:|[?~=+*]) (.*(?:\n(?!tp:|t:|[?~=+*] ).*)*)", text, re.M):
        body = body.strip()
        if mark in lists:
            lists[mark].append(body)
        elif mark == "t:":
            topic.terms = [t.strip() for t in body.split("|")]
        elif mark == "tp:":
            topic.plural_terms = [t.strip() for t in body.split("|")]
        elif mark == "=":
            topic.answer = body
        elif mark == "+":
            topic.long_answer = body
        else:
            topic.key = body
    return topic
