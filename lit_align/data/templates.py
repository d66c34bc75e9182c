"""Chat templates for models that come without one."""

from __future__ import annotations

from jinja2 import Environment, TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

from lit_align.core.errors import ConfigError
from lit_align.core.pretrained import read_template

# Line breaks stand in expressions: transformers removes those that follow a block.

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}"
    "{{ (eos_token if message['role'] == 'assistant' else '<|im_end|>') + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML; an assistant's turn ends with the tokenizer's EOS, since `<|im_end|>` may not be one of its tokens."""

TRANSCRIPT = (
    "{{ bos_token or '' }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ '\n\nAssistant: ' + message['content'] + eos_token }}"
    "{% elif message['role'] == 'user' %}{{ '\n\nHuman: ' + message['content'] }}"
    "{% else %}{{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n\nAssistant:' }}{% endif %}"
)
"""Plain words, as in Anthropic's HH data; for base models, and the same for every tokenizer."""

BUILT_IN = {"chatml": CHATML, "transcript": TRANSCRIPT}


def resolve_template(setting: str | None) -> str | None:
    """Jinja text of a setting that names a built-in template or a file, or is the text itself.

    Raises:
        ConfigError: it is none of them, or not valid Jinja.
    """
    if setting is None:
        return None
    template = read_template(BUILT_IN.get(setting, setting))
    try:
        Environment(extensions=["jinja2.ext.loopcontrols", _GenerationTag]).from_string(template)
    except TemplateSyntaxError as error:
        raise ConfigError(
            f"The chat template is not valid Jinja: {error.message}",
            got=f"data.chat_template, line {error.lineno}: {setting!r}",
            fix="Mend the template there, or set data.chat_template: chatml or transcript.",
        ) from error
    return template


class _GenerationTag(Extension):
    """`{% generation %}`, which transformers adds to Jinja."""

    tags = {"generation"}  # noqa: RUF012 - as in the base class

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Takes the tag for what stands in it."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
