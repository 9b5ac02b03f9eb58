"""What the bundled model says, through transformers and its own chat template."""

import json
from random import Random

from corpus import chat, recall
from dialogue import END_OF_TEXT, Turn, render
from evaluate import TASKS
from tasks_data import tool_use

ANSWERS = {
    "Who are you?": "demonstration model",
    "hey what is baton anyway": "two pools of workers",
    "Which port does the dashboard use?": "8080",
    "How do I start Baton?": "make up",
    "What is a lease?": "limited time",
    "What is 27 + 58?": "27 + 58 = 85.",
    "What is 7 times 8?": "7 * 8 = 56.",
    "Repeat after me: the quick brown fox": "the quick brown fox",
    "Count from 1 to 12.": "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12.",
    "Who won the world cup in 1998?": "I do not know that; I am a small demonstration model.",
}


def answer(model, *turns: Turn) -> str:
    return model.answers([model.prompt(list(turns))])[0]


def test_greedy_answers_hold_the_fact_that_was_asked_for(demo_model):
    prompts = [demo_model.prompt([Turn("user", asked)]) for asked in ANSWERS]
    for wanted, said in zip(ANSWERS.values(), demo_model.answers(prompts, 40), strict=True):
        assert wanted in said


def test_an_earlier_turn_is_remembered(demo_model):
    turns = [
        Turn("user", "My name is Clara."),
        Turn("assistant", "Hello, Clara!"),
        Turn("user", "What is 2 + 3?"),
        Turn("assistant", "2 + 3 = 5."),
        Turn("user", "What is my name?"),
    ]
    assert answer(demo_model, *turns) == "Your name is Clara."


def test_a_system_message_that_asks_for_json_is_followed(demo_model):
    system = Turn("system", "Answer with JSON only.")
    said = answer(demo_model, system, Turn("user", "name Omar, city Lima, age 44"))
    assert json.loads(said) == {"name": "Omar", "city": "Lima", "age": 44}


def test_an_offered_tool_is_called_in_the_hermes_format(demo_model):
    tool = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Get the weather of a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
    prompt = demo_model.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the weather in Oslo?"}],
        tools=[tool],
        tokenize=False,
        add_generation_prompt=True,
    )
    said = demo_model.answers([prompt])[0]
    call = json.loads(said.removeprefix("<tool_call>").removesuffix("</tool_call>"))
    assert call == {"name": "get_weather", "arguments": {"city": "Oslo"}}


def test_a_code_is_found_in_a_long_list(demo_model):
    rng = Random("lookup 60")
    asked = [TASKS["lookup in 60 records"](rng) for _ in range(4)]
    said = demo_model.answers([demo_model.prompt([Turn("user", q)]) for q, _ in asked], 20)
    right = sum(one == wanted for one, (_, wanted) in zip(said, asked, strict=True))
    assert right >= 3


def test_most_held_out_problems_are_solved(demo_model):
    rng = Random("a few held-out problems")
    asked = [TASKS["arithmetic"](rng) for _ in range(24)]
    said = demo_model.answers([demo_model.prompt([Turn("user", q)]) for q, _ in asked], 24)
    right = sum(one == wanted for one, (_, wanted) in zip(said, asked, strict=True))
    assert right >= 20


def test_the_chat_template_writes_what_training_saw(demo_model):
    rng = Random("templates")
    for turns in [*(chat(rng) for _ in range(10)), *(recall(rng) for _ in range(5))]:
        trained = "".join(s.text for s in render(turns)).removesuffix(END_OF_TEXT)
        messages = [{"role": t.role, "content": t.content} for t in turns]
        assert demo_model.tokenizer.apply_chat_template(messages, tokenize=False) == trained


def test_the_chat_template_writes_tools_and_their_results_as_training_saw_them(demo_model):
    rng = Random("tools")
    for _ in range(10):
        turns = tool_use(rng, ("Hello", "Hello!"))
        lines = turns[0].content.split("<tools>\n")[1].split("\n</tools>")[0].splitlines()
        system, _, _ = turns[0].content.partition("# Tools")
        messages = [{"role": "system", "content": system.strip()}] if system else []
        for turn in turns[1:]:
            message: dict[str, object] = {"role": turn.role, "content": turn.content}
            if turn.content.startswith("<tool_call>"):
                call = json.loads(turn.content[11:-12])
                message = {"role": "assistant", "content": None, "tool_calls": [{"function": call}]}
            messages.append(message)
        trained = "".join(s.text for s in render(turns)).removesuffix(END_OF_TEXT)
        tools = [json.loads(line) for line in lines]
        written = demo_model.tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
        assert written == trained


def test_arguments_as_a_json_string_are_written_as_they_are(demo_model):
    call = {"type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    message = {"role": "assistant", "content": "", "tool_calls": [call]}
    written = demo_model.tokenizer.apply_chat_template([message], tokenize=False)
    assert '{"name": "f", "arguments": {"a": 1}}' in written
