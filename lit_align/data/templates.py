"""Chat templates for models that come without one."""

from __future__ import annotations

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
        ConfigError: it is none of them.
    """
    return read_template(BUILT_IN.get(setting, setting)) if setting is not None else None
