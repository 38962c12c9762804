"""Chat templates as the hub has them, in small: what they ask for, how they read content, and how they fail."""

ROLE_LINES = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
ASSISTANT = "{% if add_generation_prompt %}assistant: {% endif %}"

TEMPLATES = {
    "plain": ROLE_LINES + ASSISTANT,
    "chatml": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "headers": (
        "{{- bos_token }}{% for m in messages %}{{- '<|start|>' + m['role'] + '<|mid|>\n\n' + m['content'] | trim + '<|eot|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{- '<|start|>assistant<|mid|>\n\n' }}{% endif %}"
    ),
    "llama2": (
        "{% if messages[0]['role'] == 'system' %}{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
        "{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}"
        "{% for m in rest %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + (system if loop.first else '') "
        "+ m['content'] + ' [/INST]' }}{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    "refuses_system": (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + ROLE_LINES + ASSISTANT
    ),
    "ignores_system": "{% for m in messages if m.role != 'system' %}{{ m.role }}: {{ m.content }}\n{% endfor %}" + ASSISTANT,
    "alternates": (
        "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns') }}"
        "{% endif %}{{ m.role }}: {{ m.content }}\n{% endfor %}" + ASSISTANT
    ),
    "tools_not_none": "{% if tools is not none %}TOOLS {{ tools | tojson }}\n{% endif %}" + ROLE_LINES + ASSISTANT,
    "documents_not_none": "{% if documents is not none %}DOCUMENTS {{ documents | tojson }}\n{% endif %}"
    + ROLE_LINES
    + ASSISTANT,
    "tools_none": "{% if tools is none %}You are a helpful assistant.\n{% endif %}" + ROLE_LINES + ASSISTANT,
    "tools_defined": "{% if tools is defined and tools %}TOOLS\n{% endif %}{% if not tools is defined %}UNDEFINED{% endif %}"
    + ROLE_LINES,
    "default_system": ("{% if messages[0].role != 'system' %}system: You are Small.\n{% endif %}" + ROLE_LINES + ASSISTANT),
    "parts": (
        "{% for m in messages %}{{ m.role }}: {% for p in m['content'] %}{% if p['type'] == 'text' %}{{ p['text'] }}{% endif %}"
        "{% endfor %}\n{% endfor %}" + ASSISTANT
    ),
    "parts_or_text": (
        "{% for m in messages %}{{ m.role }}: {% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
        "{{ p.text }}{% endfor %}{% endif %}\n{% endfor %}" + ASSISTANT
    ),
    "date": "Today is {{ strftime_now('%d %B %Y') }}.\n" + ROLE_LINES + ASSISTANT,
    "date_if_defined": "{% if strftime_now is defined %}{{ strftime_now('%Y') }} {% endif %}" + ROLE_LINES + ASSISTANT,
    "generation_tags": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|eot|>{% endgeneration %}"
        "{% else %}{{ m.role }}: {{ m.content }}\n{% endif %}{% endfor %}" + ASSISTANT
    ),
    "json": "{% for m in messages %}{{ m | tojson }}\n{% endfor %}" + ASSISTANT,
    "json_indented": "{% for m in messages %}{{ m | tojson(indent=2) }}\n{% endfor %}" + ASSISTANT,
    "namespace": (
        "{% set ns = namespace(count=0) %}{% for m in messages %}{% set ns.count = ns.count + 1 %}{{ ns.count }} {{ m.role }}: "
        "{{ m.content }}\n{% endfor %}" + ASSISTANT
    ),
    "loop_controls": (
        "{% for m in messages %}{% if m.content == '' %}{% continue %}{% endif %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        + ASSISTANT
    ),
    "whitespace": "{%- for m in messages -%}\n    {{ m.role }}:\n    {{ m.content }}\n{%- endfor -%}\n" + ASSISTANT,
    "no_generation_prompt": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}",
    "special_names": "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ unk_token }}|" + ROLE_LINES + ASSISTANT,
    "last_message_only": "user: {{ messages[-1].content }}\nassistant: ",
    "loses_all": "{{ bos_token }}assistant: ",
    "broken": "{% for %}",
    "reaches_out": "{{ ''.__class__.__mro__ }}" + ROLE_LINES,
    "upper": "{% for m in messages %}{{ m.role }}: {{ m.content | upper }}\n{% endfor %}" + ASSISTANT,
}
"""Name -> template."""

CONVERSATIONS = [
    [{"role": "user", "content": "Hello, \u00e9t\u00e9!"}],
    [{"role": "system", "content": 'Be "kind".'}, {"role": "user", "content": "  And <now>?  "}],
    [
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "Two"},
        {"role": "user", "content": "Three\nlines"},
    ],
    [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "Two"},
        {"role": "user", "content": "Three"},
    ],
]
"""What each template is asked to render."""


def fold_system(messages):
    """The system message in the first user's."""
    system, first, *rest = messages
    return [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *rest]


def make_parts(messages):
    """Content as lists of parts."""
    return [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]
