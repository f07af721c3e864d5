"""The turns of a chat: recognized by their marks, as llama.cpp writes them, and the same in a template of Go."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from srd_rs.turns import FORMATS, Turns, recognized

CHATS = (
    [("user", "Hi")],
    [("system", "Be short."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Bye")],
    [("user", "One\nline"), ("assistant", "Two"), ("user", "{{ .Three }}")],
)
#: Format -> what llama.cpp writes and the chat template of the models does not.
ADDED = {"deepseek3": ("Be short.\n\n", "Be short.")}
#: llama.cpp knows the format under no name, so that nothing is compared with.
NO_NAME = ("gemma4",)
GO = """package main

import (
	"encoding/json"
	"os"
	"strings"
	"text/template"
)

type Message struct{ Role, Content string }
type Chat struct {
	Template, System string
	Messages         []Message
}

func main() {
	var chats []Chat
	if err := json.NewDecoder(os.Stdin).Decode(&chats); err != nil {
		panic(err)
	}
	rendered := make([]string, len(chats))
	for i, chat := range chats {
		var text strings.Builder
		if err := template.Must(template.New("").Parse(chat.Template)).Execute(&text, chat); err != nil {
			panic(err)
		}
		rendered[i] = text.String()
	}
	json.NewEncoder(os.Stdout).Encode(rendered)
}
"""


def jinja(turns: Turns) -> str:
    """A chat template that holds the marks of a format."""
    return "{% for m in messages %}{{ m.content }}{% endfor %}" + ",".join(turns.marks)


@pytest.mark.parametrize("turns", FORMATS, ids=lambda turns: turns.name)
def test_a_format_is_recognized_by_all_its_marks(turns: Turns) -> None:
    text = jinja(turns)
    assert recognized(text) is turns
    for mark in turns.marks:
        assert recognized(text.replace(mark, "")) is not turns, mark
    for mark in turns.without:
        assert recognized(text + mark) is not turns, mark


def test_other_templates_are_not_recognized() -> None:
    for text in (
        "",
        "{{ messages }}",
        "<|user|>\n<|assistant|>\n",
        "### Instruction:",
        "<|im_start|>User: <end_of_utterance>",
    ):
        assert recognized(text) is None, text


@pytest.mark.parametrize("turns", FORMATS, ids=lambda turns: turns.name)
@pytest.mark.parametrize("chat", CHATS, ids=["one", "system", "several"])
def test_turns_are_those_of_llama_cpp(turns: Turns, chat: list[tuple[str, str]]) -> None:
    """llama.cpp has templates of its own for models whose Jinja it does not run."""
    llama_cpp = pytest.importorskip(
        "llama_cpp", reason="llama-cpp-python is not installed: turns were not compared with llama.cpp"
    )
    if turns.name in NO_NAME:
        pytest.skip("llama.cpp has no template of its own for this format: nothing was compared")
    messages = (llama_cpp.llama_chat_message * len(chat))()
    for message, (role, text) in zip(messages, chat, strict=True):
        message.role, message.content = role.encode(), text.encode()
    buffer = ctypes.create_string_buffer(4096)
    name = turns.name.encode()
    size = llama_cpp.llama_chat_apply_template(name, messages, len(chat), True, buffer, len(buffer))
    assert size > 0, "llama.cpp does not know the name"
    assert turns.chat(chat) == buffer.raw[:size].decode().replace(*ADDED.get(turns.name, ("\0", "")))


def test_a_template_of_go() -> None:
    """Both kinds: with a turn of the system, and with its text in front of the first text of the user."""
    by_name = {turns.name: turns for turns in FORMATS}
    assert by_name["phi4"].go_template() == (
        '{{- range .Messages }}\n{{- if eq .Role "system" }}<|im_start|>system<|im_sep|>{{ .Content }}<|im_end|>'
        '{{ else if eq .Role "user" }}<|im_start|>user<|im_sep|>{{ .Content }}<|im_end|>'
        '{{ else if eq .Role "assistant" }}<|im_start|>assistant<|im_sep|>{{ .Content }}<|im_end|>'
        "{{ end }}\n{{- end }}<|im_start|>assistant<|im_sep|>"
    )
    assert by_name["gemma"].go_template() == (
        "{{- $system := .System }}\n{{- range .Messages }}\n"
        '{{- if eq .Role "user" }}<start_of_turn>user\n{{ if $system }}{{ $system }}\n\n{{ $system = "" }}{{ end }}'
        '{{ .Content }}<end_of_turn>\n{{ else if eq .Role "assistant" }}<start_of_turn>model\n'
        "{{ .Content }}<end_of_turn>\n{{ end }}\n{{- end }}<start_of_turn>model\n"
    )


def test_go_writes_the_same_turns(tmp_path: Path) -> None:
    go = shutil.which("go")
    if go is None:
        pytest.skip("Go is not installed: the templates for Ollama were not run")
    (tmp_path / "main.go").write_text(GO)
    chats, wanted = [], []
    for turns in FORMATS:
        for chat in CHATS:
            system = "\n\n".join(text for role, text in chat if role == "system")
            messages = [{"Role": role, "Content": text} for role, text in chat]
            chats.append({"Template": turns.go_template(), "System": system, "Messages": messages})
            wanted.append(turns.chat(chat))
    env = {**os.environ, "GOCACHE": str(tmp_path / "cache"), "GOTOOLCHAIN": "local"}
    done = subprocess.run(
        [go, "run", "main.go"], input=json.dumps(chats), capture_output=True, text=True, cwd=tmp_path, env=env
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == wanted
