"""A chat template for tests."""

#: SmolLM2's own chat template knows no tools. This one tells of them as Hermes models were taught it, which llama.cpp
#: recognises; it then reads calls out of what the model writes.
WITH_TOOLS = """
{%- if tools %}{{ '<|im_start|>system\nYou have tools.\n<tools>' }}
{%- for tool in tools %}{{ '\n' + (tool | tojson) }}{%- endfor %}
{{- '\n</tools>\nTo call one, write\n<tool_call>\n{"name": <name>, "arguments": <arguments>}\n</tool_call><|im_end|>' }}
{{- '\n' }}{%- endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}
{{- '<|im_start|>user\n<tool_response>\n' + message.content + '\n</tool_response><|im_end|>\n' }}
{%- else %}
{{- '<|im_start|>' + message.role }}
{%- if message.content %}{{- '\n' + message.content }}{%- endif %}
{%- if message.tool_calls %}{%- for call in message.tool_calls %}
{{- '\n<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
{%- if call.function.arguments is string %}{{- call.function.arguments }}
{%- else %}{{- call.function.arguments | tojson }}{%- endif %}
{{- '}\n</tool_call>' }}
{%- endfor %}{%- endif %}
{{- '<|im_end|>\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}
"""
