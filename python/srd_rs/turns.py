"""The turns of a chat, recognized in a chat template and written as a template of Go, for Ollama.

A GGUF holds the chat template as Jinja. Ollama does not run Jinja: it knows some templates by heart, and for all others
it sends the text of a user as it is. So a Modelfile needs a TEMPLATE in the language of Go. The template of a GGUF is
that of others and is not run here either: the marks that stand in it say which turns a model was trained on.

    >>> from srd_rs.turns import recognized
    >>> turns = recognized("{% for m in messages %}<|im_start|>{{ m.role }}...<|im_end|>{% endfor %}")
    >>> turns.name, turns.user
    ('chatml', ('<|im_start|>user\\n', '<|im_end|>\\n'))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

Wrap = tuple[str, str]


@dataclass(frozen=True)
class Turns:
    """What stands around the texts of a chat.

    name: The name of the format.
    marks: Texts that all stand in a chat template of this format.
    without: Texts of which none stands in one: they belong to other formats with the same marks.
    system, user, assistant: What stands before and after the text of a turn. With None for `system`, its text stands
        in front of the first text of the user, with an empty line between.

    Behind the last turn stands what stands before a text of the assistant, and the model goes on there.
    """

    name: str
    marks: tuple[str, ...]
    system: Wrap | None
    user: Wrap
    assistant: Wrap
    without: tuple[str, ...] = ()

    def go_template(self) -> str:
        """The template in the language of Go, with the variables of Ollama."""
        head = "" if self.system else "{{- $system := .System }}\n"
        system, text = "", "{{ .Content }}"
        if self.system:
            system = f'{{{{- if eq .Role "system" }}}}{text.join(self.system)}'
        else:
            text = '{{ if $system }}{{ $system }}\n\n{{ $system = "" }}{{ end }}{{ .Content }}'
        otherwise = "{{ else " if self.system else "{{- "
        return (
            f"{head}{{{{- range .Messages }}}}\n{system}"
            f'{otherwise}if eq .Role "user" }}}}{text.join(self.user)}'
            f'{{{{ else if eq .Role "assistant" }}}}{"{{ .Content }}".join(self.assistant)}'
            f"{{{{ end }}}}\n{{{{- end }}}}{self.assistant[0]}"
        )

    def chat(self, messages: Sequence[tuple[str, str]]) -> str:
        """A chat of (role, text) as the template writes it, up to where the model goes on."""
        system = "" if self.system else "".join(f"{text}\n\n" for role, text in messages if role == "system")
        parts = []
        for role, text in messages:
            wrap = {"system": self.system, "user": self.user, "assistant": self.assistant}[role]
            if wrap is None:
                continue
            first, system = (system, "") if role == "user" else ("", system)
            parts.append(f"{wrap[0]}{first}{text}{wrap[1]}")
        return "".join([*parts, self.assistant[0]])


def _named(before: str, between: str, after: str, assistant: str = "assistant") -> dict[str, Wrap]:
    """Turns that differ in the name of the role alone."""
    return {
        role: (f"{before}{name}{between}", after)
        for role, name in (("system", "system"), ("user", "user"), ("assistant", assistant))
    }


#: The formats; those with more marks stand before those with fewer.
FORMATS: Final = (
    Turns("phi4", ("<|im_start|>", "<|im_sep|>"), **_named("<|im_start|>", "<|im_sep|>", "<|im_end|>")),
    Turns(
        "chatml",
        ("<|im_start|>", "<|im_end|>"),
        **_named("<|im_start|>", "\n", "<|im_end|>\n"),
        without=("<end_of_utterance>",),
    ),
    Turns(
        "llama3",
        ("<|start_header_id|>", "<|eot_id|>"),
        **_named("<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>"),
        without=(">>>",),
    ),
    Turns(
        "llama4",
        ("<|header_start|>", "<|eot|>"),
        **_named("<|header_start|>", "<|header_end|>\n\n", "<|eot|>"),
    ),
    Turns("gemma4", ("<|turn>", "<turn|>"), **_named("<|turn>", "\n", "<turn|>\n", "model")),
    Turns(
        "gemma",
        ("<start_of_turn>", "<end_of_turn>"),
        system=None,
        user=("<start_of_turn>user\n", "<end_of_turn>\n"),
        assistant=("<start_of_turn>model\n", "<end_of_turn>\n"),
    ),
    Turns(
        "granite",
        ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"),
        **_named("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>\n"),
    ),
    Turns(
        "command-r",
        ("<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>"),
        system=("<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
        user=("<|START_OF_TURN_TOKEN|><|USER_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
        assistant=("<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
        without=("<|START_RESPONSE|>", "<|START_TEXT|>"),
    ),
    Turns(
        "mistral-v7-tekken",
        ("[SYSTEM_PROMPT]", "[INST]", "[/INST]"),
        system=("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
        user=("[INST]", "[/INST]"),
        assistant=("", "</s>"),
        without=("[INST] ",),
    ),
    Turns(
        "deepseek3",
        ("<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
        system=("", ""),
        user=("<｜User｜>", ""),
        assistant=("<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
        without=("thinking", "<｜end▁of▁sentence｜><｜Assistant｜>"),
    ),
    Turns(
        "exaone3",
        ("[|user|]", "[|assistant|]", "[|endofturn|]"),
        system=("[|system|]", "[|endofturn|]\n"),
        user=("[|user|]", "\n"),
        assistant=("[|assistant|]", "[|endofturn|]\n"),
    ),
    Turns(
        "phi3",
        ("<|user|>", "<|assistant|>", "<|end|>"),
        **_named("<|", "|>\n", "<|end|>\n"),
        without=("[BEGIN FINAL RESPONSE]",),
    ),
)


def recognized(template: str) -> Turns | None:
    """The format of a chat template, by its marks; None for one that is not known."""
    return next(
        (
            turns
            for turns in FORMATS
            if all(mark in template for mark in turns.marks)
            and not any(mark in template for mark in turns.without)
        ),
        None,
    )
