import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from edgept.errors import InvalidFileError, UntrustedError, UsageError
from edgept.prompt import Prompt
from edgept.runtime.chat import ChatTemplate

# Templates in the manner of well-known model families, written for these tests.
LLAMA_3 = """{{- bos_token }}
{%- set today = date_string if date_string is defined else "1 Jan 2025" %}
{%- if messages[0].role == "system" %}
    {%- set system = messages[0].content | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {%- for tool in tools %}
        {{- tool | tojson(indent=4) ~ "\\n" }}
    {%- endfor %}
{%- endif %}
{{- "Date: " + today + "\\n" + system + "<|eot_id|>" }}
{%- for message in messages %}
    {{- "<|start_header_id|>" + message["role"] + "<|end_header_id|>\\n\\n" }}
    {{- message["content"] | trim + "<|eot_id|>" }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|start_header_id|>assistant<|end_header_id|>\\n\\n" }}
{%- endif %}
"""

QWEN = """{%- set ns = namespace(last_user=0) %}
{%- for message in messages %}
    {%- if message.role == "user" %}{%- set ns.last_user = loop.index0 %}{%- endif %}
{%- endfor %}
{%- if tools %}
    {{- "<|im_start|>system\\nTools:" }}
    {%- for tool in tools %}{{ "\\n" + (tool | tojson) }}{% endfor %}
    {{- "<|im_end|>\\n" }}
{%- endif %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set text = message.content %}
    {%- else %}
        {%- set text = message.content | map(attribute="text") | join("") %}
    {%- endif %}
    {{- "<|im_start|>" + message.role + "\\n" }}
    {%- if message.role == "assistant" %}
        {%- if message.reasoning_content is defined and loop.index0 > ns.last_user %}
            {{- "<think>\\n" + message.reasoning_content.strip("\\n") + "\\n</think>\\n\\n" }}
        {%- endif %}
        {%- generation %}{{ text.split("</think>")[-1].lstrip("\\n") }}{% endgeneration %}
        {%- for call in message.tool_calls or [] %}
            {{- "\\n<tool_call>" ~ call.function.name ~ call.function.arguments | tojson }}
        {%- endfor %}
    {%- else %}
        {{- text }}
    {%- endif %}
    {{- "<|im_end|>\\n" }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|im_start|>assistant\\n" }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- "<think>\\n\\n</think>\\n\\n" }}
    {%- endif %}
{%- endif %}
"""

GEMMA = """{{ bos_token }}
{% if messages[0]['role'] == 'system' %}
    {{ raise_exception('No system role here') }}
{% endif %}
{% for message in messages %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Roles must alternate user/assistant') }}
    {% endif %}
    {% set role = 'model' if message['role'] == 'assistant' else message['role'] %}
    {{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{% endfor %}
{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}
"""

MISTRAL = """{{- bos_token }}
{%- if messages[0].role == "system" %}
    {%- set system = messages[0].content %}{%- set turns = messages[1:] %}
{%- else %}
    {%- set system = "" %}{%- set turns = messages %}
{%- endif %}
{%- for message in turns %}
    {%- if message.role == "user" %}
        {{- "[INST] " }}
        {%- if loop.last and system %}{{- system + "\\n\\n" }}{%- endif %}
        {{- message.content + " [/INST]" }}
    {%- elif message.role == "assistant" %}
        {{- " " + message.content + eos_token }}
    {%- elif message.role == "ignored" %}
        {%- continue %}
    {%- else %}
        {{- raise_exception("Unknown role " + message.role) }}
    {%- endif %}
{%- endfor %}
"""

PHI = """{% for message in messages %}
{{ '<|' ~ message['role'] ~ '|>' }}
{{ message['content'] }}<|end|>
{% if message['role'] == 'assistant' and loop.last %}{% break %}{% endif %}
{% endfor %}
{% if documents %}{{ documents[0].title }}: {{ documents[0]['text'] }}
{% endif %}
{% if add_generation_prompt %}<|assistant|>
{% else %}{{ eos_token }}{% endif %}
"""

TEMPLATES = {
    "llama-3": LLAMA_3,
    "qwen": QWEN,
    "gemma": GEMMA,
    "mistral": MISTRAL,
    "phi": PHI,
    "odds": (
        "{{ dict(a=1) | tojson }}{{ dict.fromkeys(['x'], 2) }}{{ messages | tojson(sort_keys=True) }}"
        "{{ messages[0] | tojson(ensure_ascii=True, separators=(',', ':')) }}\n\n"
        "{{ strftime_now('%Y') }}{{ image_token }}{{ missing }}{{ pad_token is defined }}  \n"
    ),
}

TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "image_token": "<image>"}
USER = {"role": "user", "content": " Wo ist mein <Paket> & wann? \n"}
ASSISTANT = {"role": "assistant", "content": "In 東京 😀."}
SYSTEM = {"role": "system", "content": "Be brief."}
TOOL = {"type": "function", "function": {"name": "track", "parameters": {"<id>": "str"}}}

CHATS: dict[str, dict[str, Any]] = {
    "one": {"messages": [USER], "add_generation_prompt": True},
    "turns": {"messages": [USER, ASSISTANT, USER], "add_generation_prompt": True},
    "answered": {"messages": [USER, ASSISTANT]},
    "system": {"messages": [SYSTEM, USER], "add_generation_prompt": True},
    "none": {"messages": [{**USER, "tool_calls": None, "name": None}]},
    "tools": {"messages": [USER], "tools": [TOOL], "add_generation_prompt": True},
    "documents": {"messages": [USER], "documents": [{"title": "T", "text": "x"}]},
    "variables": {
        "messages": [USER],
        "add_generation_prompt": True,
        "enable_thinking": False,
        "date_string": "2 Feb 2026",
        "bos_token": "<other>",
    },
    "thinking": {"messages": [USER, {**ASSISTANT, "thinking": "hm"}]},
    "call": {
        "messages": [
            USER,
            {**ASSISTANT, "tool_calls": [{"function": {"name": "f", "arguments": {"a": "<b>"}}}]},
        ]
    },
}


def prompt(name: str) -> Prompt:
    return Prompt({"prompt_embeds": np.zeros((2, 4), np.float32)}, name=name)


def bundle(folder: Path, template: Any, as_file: bool = False) -> Path:
    backend = tokenizers.Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", **TOKENS}
    if as_file:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        config["chat_template"] = "not this one"
    else:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_text_is_that_of_transformers(name: str, chat: str, tmp_path: Path) -> None:
    folder = bundle(tmp_path, TEMPLATES[name], as_file=chat == "one")
    options = dict(CHATS[chat])
    messages = options.pop("messages")
    reference: Any = PreTrainedTokenizerFast.from_pretrained(folder)
    template = ChatTemplate.from_bundle(folder)
    if name == "gemma" and chat == "system":
        with pytest.raises(UsageError, match=r"No system role here.*Check their roles"):
            template.render(messages, **options)
        return
    expected = reference.apply_chat_template(messages, tokenize=False, **options)
    assert template.render(messages, **options) == expected
    assert template.render_parts(messages, **options) == [expected]


def test_named_templates_are_chosen_as_transformers_chooses(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    folder = bundle(tmp_path, named)
    reference: Any = PreTrainedTokenizerFast.from_pretrained(folder)
    template = ChatTemplate.from_bundle(folder)
    for tools, expected in ((None, "plain"), ([TOOL], "tools"), ([], "tools")):
        assert template.render([USER], tools=tools) == expected
        found = reference.apply_chat_template([USER], tools=tools, tokenize=False)
        assert found == expected


def test_no_template_named_default() -> None:
    with pytest.raises(UsageError, match="named rag, and none 'default'"):
        ChatTemplate({"rag": "x"}).render([USER])


def test_time_is_the_machine_s() -> None:
    text = ChatTemplate("{{ strftime_now('%Y-%m-%d %H:%M:%S') }}").render([USER])
    assert abs((datetime.now() - datetime.fromisoformat(text)).total_seconds()) < 60


@pytest.mark.parametrize("name", ["llama-3", "qwen", "gemma", "mistral", "phi", "odds"])
def test_prompts_keep_their_place(name: str) -> None:
    template = ChatTemplate(TEMPLATES[name], TOKENS)
    spanish, formal = prompt("spanish"), prompt("formal")
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [spanish, "Where is my parcel?"]},
        {"role": "assistant", "content": "Here."},
        {"role": "user", "content": ["And ", formal, spanish, " now?"]},
    ]
    parts = template.render_parts(messages, add_generation_prompt=True)
    # The same chat with marks that are text already
    texts = ["[S]Where is my parcel?", "Here.", "And [F][S] now?"]
    plain = [{**message, "content": text} for message, text in zip(messages, texts, strict=True)]
    expected = template.render(plain, add_generation_prompt=True)
    marks = {id(spanish): "[S]", id(formal): "[F]"}
    found = "".join(part if isinstance(part, str) else marks[id(part)] for part in parts)
    assert found == expected
    assert "" not in parts
    assert messages[0]["content"] == [spanish, "Where is my parcel?"]  # left as it was


def test_parts_alternate() -> None:
    template = ChatTemplate("{{ messages[0].content }}|{{ messages[1].content }}")
    one, two = prompt("one"), prompt("two")
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": one},
        {"role": "user", "content": ["x", two]},
    ]
    assert template.render_parts(messages) == [one, "|x", two]


def test_a_prompt_that_the_template_prints_twice_stands_twice() -> None:
    template = ChatTemplate("{{ messages[0].content }},{{ messages[0].content }}")
    one = prompt("one")
    assert template.render_parts([{"content": [one]}]) == [one, ",", one]


def test_a_prompt_inside_a_text_block_and_a_tool() -> None:
    one, two = prompt("one"), prompt("two")
    messages = [{"role": "user", "content": [{"type": "text", "text": one}]}]
    template = ChatTemplate("{{ tools[0].name }}-{{ messages[0].content[0].text }}")
    assert template.render_parts(messages, tools=[{"name": two}]) == [two, "-", one]


@pytest.mark.parametrize(
    "source", ["nothing", "{{ messages[0].content[:9] }}", "{{ messages[0].content | upper }}"]
)
def test_a_prompt_that_the_template_drops_is_an_error(source: str) -> None:
    with pytest.raises(UsageError, match="left out 'spanish'"):
        ChatTemplate(source).render_parts([{"content": [prompt("spanish"), "text"]}])


def test_render_refuses_what_is_not_plain_data() -> None:
    with pytest.raises(UsageError, match=r"hold a Prompt.*render_parts"):
        ChatTemplate(PHI).render([{"role": "user", "content": [prompt("x")]}])


def test_a_template_sees_plain_copies_only() -> None:
    class Loud(str):
        def shout(self) -> str:
            raise AssertionError

    source = "{{ messages[0].content.shout is defined }}{{ messages[0].content }}"
    assert ChatTemplate(source).render([{"content": Loud("hi")}]) == "Falsehi"


@pytest.mark.parametrize(
    ("messages", "found"),
    [([], "no messages"), (["hello"], "a message is a str"), ([3], "a message is a int")],
)
def test_bad_messages(messages: Any, found: str) -> None:
    with pytest.raises(UsageError, match=found):
        ChatTemplate(PHI).render(messages)


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[0]['role'] + 1 }}{# roles must alternate #}",
        "{{ messages[9].content.strip() }}",
        "{{ 1 / 0 }}",
        "{% include 'other' %}",
        "{{ none.x.y }}",
    ],
)
def test_an_error_in_a_template_is_a_usage_error(source: str) -> None:
    with pytest.raises(UsageError, match=r"refuses these messages: .+ Check their roles"):
        ChatTemplate(source).render([USER])


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''['__class__'] }}",
        "{{ '' | attr('__class__') }}",
        "{{ cycler.__init__.__globals__.os.popen('touch ATTACKED').read() }}",
        "{{ joiner.__init__.__globals__ }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ lipsum.__globals__['os'].system('touch ATTACKED') }}",
        "{{ self._TemplateReference__context }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__globals__ }}",
        "{{ dict.__class__ }}",
        "{{ dict.fromkeys.__func__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='x') }}",
        "{{ messages[0].clear() }}",
        "{{ '{0.__class__.__mro__}'.format('') }}",
        "{{ '{x.__globals__}'.format_map({'x': lipsum}) }}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{% set ns = namespace(__init__=1) %}",
        "{% for i in range(1000000) %}{% endfor %}",
        "{{ range(10 ** 12) | list }}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
    ],
)
def test_attacks_are_refused(attack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UntrustedError, match="chat template was stopped"):
        ChatTemplate(attack).render([USER])
    assert list(tmp_path.iterdir()) == []


def test_the_longest_allowed_loop_runs() -> None:
    text = ChatTemplate("{% for i in range(100000) %}x{% endfor %}").render([USER])
    assert len(text) == 100_000


def test_a_bundle_without_a_template(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no chat template.*chat_template\.jinja"):
        ChatTemplate.from_bundle(bundle(tmp_path, None))


@pytest.mark.parametrize(
    "source",
    [
        "{% if %}",
        "{{ x",
        "{{ x | no_such_filter }}",
        "{% for x in y %}",
        "{% endgeneration %}",
        "{{ " + "(" * 20_000 + ")" * 20_000 + " }}",
        "{% if a %}" * 150 + "{% endif %}" * 150,
    ],
    ids=["if", "open", "filter", "for", "generation", "deep", "nested"],
)
def test_a_broken_template_is_an_invalid_file(source: str) -> None:
    with pytest.raises(InvalidFileError, match="not valid Jinja") as caught:
        ChatTemplate(source)
    assert caught.value.reason == "chat-template-malformed"


@pytest.mark.parametrize("template", [[{"name": "default"}], [3], {"default": 3}, 3])
def test_a_template_of_another_type_is_an_invalid_file(template: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidFileError, match="cannot be read"):
        ChatTemplate.from_bundle(bundle(tmp_path, template))


def test_a_template_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidFileError, match="cannot be read"):
        ChatTemplate.from_bundle(tmp_path)
