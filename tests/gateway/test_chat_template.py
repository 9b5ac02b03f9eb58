"""Chat templates as Hugging Face models write them, in a sandbox."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from gateway.chat_template import ChatTemplate, TemplateError
from gateway.errors import ApiError
from gateway.model_directory import read_model_directory

HI = [{"role": "user", "content": "<hi> & 'you'"}]


@pytest.mark.parametrize(
    ("source", "prompt"),
    [
        ("{{ bos_token }}{{ messages[0].content }}", "<s><hi> & 'you'"),
        ("{{ messages[0] | tojson }}", '{"role": "user", "content": "<hi> & \'you\'"}'),
        ("{{ {'a': [1]} | tojson(indent=1) }}", '{\n "a": [\n  1\n ]\n}'),
        ("{% if add_generation_prompt %}go{% endif %}", "go"),
        ("{% if tools %}t{% endif %}{% if documents %}d{% endif %}", ""),
        ("{% for m in messages %}\n    {% break %}\n{% endfor %}end", "end"),
        ("{% generation %}{{ messages[0].role }}{% endgeneration %}", "user"),
        ("{{ strftime_now('%Y') | length }}", "4"),
        ("{{ missing_variable }}", ""),
    ],
)
def test_templates_find_what_they_expect(source: str, prompt: str) -> None:
    assert ChatTemplate(source, {"bos_token": "<s>"}).render(HI) == prompt


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('no') }}",
        "{{ messages[0].missing.deeper }}",
        "{{ 1 / 0 }}",
        "{{ messages + 1 }}",
        "{{ messages.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
    ],
)
def test_a_template_that_fails_is_the_requests_error(source: str) -> None:
    with pytest.raises(ApiError) as raised:
        ChatTemplate(source, {}).render(HI)
    assert (raised.value.status, raised.value.param) == (400, "messages")


def test_a_template_that_does_not_compile_is_refused_at_once() -> None:
    with pytest.raises(TemplateError):
        ChatTemplate("{% for %}", {})


def test_a_template_file_goes_before_the_tokenizers_field(
    tmp_path: Path, byte_level_tokenizer: Tokenizer, write_model: object
) -> None:
    assert callable(write_model)
    path = write_model(
        tmp_path / "m",
        byte_level_tokenizer,
        bos_token={"content": "<bos>"},
        chat_template=[
            {"name": "default", "template": "field {{ bos_token }}"},
            {"name": "tool_use", "template": "tools"},
        ],
    )

    def prompt() -> str:
        template = read_model_directory(path).template
        assert template is not None
        return template.render(HI)

    assert prompt() == "field <bos>"
    (path / "chat_template.json").write_text('{"chat_template": "json file"}')
    assert prompt() == "json file"
    (path / "chat_template.jinja").write_text("jinja file")
    assert prompt() == "jinja file"
