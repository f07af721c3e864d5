"""This package turns the tokenizer files of a checkpoint into the ``tokenizer.*`` metadata of a GGUF, as
llama.cpp reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from srd_rs.metadata import Metadata
from srd_rs.reading import shown
from srd_rs.vocab import (
    bpe,
    chat,
    flags,
    gemma,
    plamo,
    pretokenizer,
    rwkv,
    special,
    spm,
    tekken,
    tiktoken,
    unigram,
    wordpiece,
)
from srd_rs.vocab.added import AddedTokens
from srd_rs.vocab.config import read_config
from srd_rs.vocab.files import MAX_TOKENS, TokenizerJson, fail, log, refuse
from srd_rs.vocab.rules import FILES_DECIDE, VocabularyRules
from srd_rs.vocab.sentencepiece import SentencePieceModel, is_sentencepiece, read_model
from srd_rs.vocab.vocabulary import Vocabulary

__all__ = ["FILES_DECIDE", "TOKENIZERS", "VocabularyRules", "load"]

TOKENIZERS: Final = (
    "spm",
    "bpe",
    "wordpiece",
    "unigram",
    "tekken",
    "tiktoken",
    "rwkv",
    "plamo2",
    "whitespace",
    "none",
)
"""The kinds of tokenizers that are read, by the names that `srd-rs models` gives them."""

_OTHER_CLASSES: Final = ("GPT2Tokenizer", "GPT2TokenizerFast")
"""These classes of transformers do not read tokenizer.model."""
_CODE_CLASSES: Final = ("HybridDNATokenizer",)
"""These classes make tokens that no file lists."""
_FAIRSEQ_FILE: Final = "sentencepiece.bpe.model"
_SENTENCEPIECE_FILES: Final = ("tokenizer.model", "spiece.model", _FAIRSEQ_FILE)
_NO_ENDS: Final[Mapping[str, bool]] = {}
_FAIRSEQ_ENDS: Final = {"bos": True, "eos": True}
_LLAMA_ENDS: Final = {"bos": True, "eos": False}


def load(
    folder: str | Path,
    *,
    config: dict[str, Any],
    n_vocab: int,
    rules: VocabularyRules = FILES_DECIDE,
    pre: str | None = None,
    name: str = "",
    arch: str = "",
) -> Metadata:
    """Return every ``tokenizer.*`` key for the checkpoint in `folder`, chat template included.

    `config` is config.json with its text part merged into the top level. `n_vocab` is the number of rows of the
    embedding; the token list gets as many entries. `rules` is what the family knows beyond the files. `pre` is
    llama.cpp's name of the pre-tokenizer and replaces the recognized one. By `name` and `arch`, the name and the
    architecture of the model, llama.cpp knows the flags of some added tokens.

    Raises FormatError if a file breaks its format, ModelError if the tokenizer cannot be converted, SrdIOError
    if a file cannot be read, UsageError if `pre` is unknown.
    """
    folder = Path(folder)
    size = _size(folder, config, n_vocab, rules)
    pre = pretokenizer.checked_override(pre) if pre else None
    return _Loader(folder, config, rules.sized(size), size, pre, name, arch).load()


def _size(folder: Path, config: dict[str, Any], n_vocab: int, rules: VocabularyRules) -> int:
    """Return the number of tokens: the rows of the embedding, which config.json must not contradict."""
    if not 0 < n_vocab <= MAX_TOKENS:
        refuse(folder, f"an embedding of {shown(n_vocab)} rows", f"A vocabulary has 1 to {MAX_TOKENS} tokens")
    stated = config.get("vocab_size", n_vocab)
    fits = isinstance(stated, int) and not isinstance(stated, bool)
    if not fits or not (stated == n_vocab or (rules.padded and 0 < stated < n_vocab)):
        what = f"vocab_size is {shown(stated)}, but the embedding has {n_vocab} rows"
        refuse(folder / "config.json", what, "Correct vocab_size, or use the weights that belong to it")
    return n_vocab


@dataclass
class _Loader:
    """A loader serves one folder. `load` picks the kind of tokenizer."""

    folder: Path
    config: dict[str, Any]
    rules: VocabularyRules
    size: int
    pre: str | None
    name: str
    arch: str

    def __post_init__(self) -> None:
        self.tokenizer_config = read_config(self.folder)
        self.templates = chat.find(self.folder, self.tokenizer_config)

    def load(self) -> Metadata:
        metadata = Metadata()
        if self.rules.kind == "none":
            metadata.string("tokenizer.ggml.model", "none")
            return metadata
        if self.rules.token_types:
            metadata.uint32("tokenizer.ggml.token_type_count", self._type_count())
        stated = self.tokenizer_config.get("add_prefix_space")
        if self.rules.stated_space_prefix and isinstance(stated, bool):
            metadata.boolean("tokenizer.ggml.add_space_prefix", stated)
        self._reader()(metadata)
        if self.rules.space_prefix is not None:
            metadata.boolean("tokenizer.ggml.add_space_prefix", self.rules.space_prefix)
        return metadata

    def _reader(self) -> Callable[[Metadata], None]:
        """Return the reader for the files that the folder has. transformers reads the first of them too."""
        if self.rules.kind == "gemma4":
            return self._gemma4
        if self.tokenizer_config.get("tokenizer_class") in _CODE_CLASSES:
            what = "its tokens stand in Python code of the repository, which is not run"
            refuse(self.folder / "tokenizer_config.json", what, "Such a tokenizer cannot be converted")
        if (self.folder / rwkv.FILE).is_file():
            return self._rwkv
        if (self.folder / plamo.FILE).is_file():
            return self._plamo
        path = self._sentencepiece_file()
        if path is not None:
            return partial(self._sentencepiece, path)
        if (self.folder / "tokenizer.json").is_file():
            return self._tokenizer_json
        if (self.folder / "vocab.json").is_file():
            return self._slow_files
        if (self.folder / "vocab.txt").is_file():
            return self._vocab_txt
        if (self.folder / "tekken.json").is_file():
            return self._tekken
        if (ranks := tiktoken.find_file(self.folder)) is not None:
            return partial(self._tiktoken, ranks)
        fix = "Add tokenizer.model, tokenizer.json, or vocab.json with merges.txt"
        refuse(self.folder, "no tokenizer in the folder", fix)

    def _sentencepiece_file(self) -> Path | None:
        """Return the SentencePiece model that transformers would read. Phi-4 has one beside the files of another
        kind."""
        if self.tokenizer_config.get("tokenizer_class") in _OTHER_CLASSES:
            return None
        names = [*_SENTENCEPIECE_FILES]
        if not (self.folder / "tokenizer.json").is_file():
            names += sorted((path.name for path in self.folder.glob("tokenizer.model.v*")), reverse=True)
        return next((self.folder / name for name in names if is_sentencepiece(self.folder / name)), None)

    def _write_space_prefix(
        self, metadata: Metadata, file: TokenizerJson | None, model_prefix: bool = True
    ) -> None:
        """Say that no space stands before a text. llama.cpp puts a space there, and behind each special token too.

        tokenizer.json may put a space before the whole text only, which GGUF cannot say. A model with a chat template
        then gets none, because its texts begin with a special token.
        """
        if self.rules.space_prefix is not None:
            return
        scheme = spm.space_scheme(file) if file is not None else "always" if model_prefix else "never"
        if scheme == "never" or (scheme == "first" and self.templates):
            metadata.boolean("tokenizer.ggml.add_space_prefix", False)

    def _gemma4(self, metadata: Metadata) -> None:
        file = self._open()
        if file is None:
            refuse(self.folder, "no tokenizer.json", "Add the tokenizer's files to the folder")
        added = self._added(file)
        vocabulary = gemma.from_tokenizer_json(file, self.size, added)
        self._write(metadata, vocabulary, "gemma4", None, file, added)

    def _type_count(self) -> int:
        count = self.config.get("type_vocab_size", 1)
        if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count < 2**31:
            refuse(self.folder / "config.json", f"type_vocab_size is {shown(count)}", "Correct it")
        return count

    def _sentencepiece(self, path: Path, metadata: Metadata) -> None:
        model = read_model(path)
        file = self._open()
        added = self._added(file)
        bytes_in_llama = path.name == "tokenizer.model" and self.rules.kind != "t5"
        version = path.suffix[1:] if path.suffix.startswith(".v") else None
        if version is not None:
            self._mistral_template(version, path, is_tekken=False)
        if file is not None and "model" in file.sections and unigram.is_unigram(file):
            if not (bytes_in_llama and model.byte_fallback):
                self._unigram(metadata, unigram.from_tokenizer_json(file, self.size, added), file, added, {})
                return
        elif model.unigram and not (bytes_in_llama and model.byte_fallback):
            fairseq = path.name == _FAIRSEQ_FILE
            ends = _FAIRSEQ_ENDS if fairseq else _LLAMA_ENDS if bytes_in_llama else {}
            found = unigram.from_model(model, self.size, added, fairseq=fairseq)
            self._unigram(metadata, found, None, added, ends)
            return
        if model.unigram:
            what = (
                "%s: Unigram with bytes for unknown characters. llama.cpp merges its tokens by their scores,"
            )
            log.warning(what + " which can give other tokens", path)
        if file is not None and self._is_newer(file, model, added):
            vocabulary = spm.from_merges(file, self.size, added)
        else:
            if file is not None:
                file.release()
            respell = not self.rules.spaces_stay_visible
            vocabulary = spm.from_model(model, self.size, added, respell=respell, alone=file is None)
        self._write_space_prefix(metadata, file, model.space_prefix)
        self._write(metadata, vocabulary, "llama", "default", file, added)

    def _unigram(
        self,
        metadata: Metadata,
        found: unigram.Unigram,
        file: TokenizerJson | None,
        added: AddedTokens,
        ends: Mapping[str, bool],
    ) -> None:
        """Write a Unigram vocabulary. `ends` says what is added to a text where no file says so."""
        self._write(metadata, found.vocabulary, "t5", "default", file, added, ends)
        found.write_normalizer(metadata)

    def _is_newer(self, file: TokenizerJson, model: SentencePieceModel, added: AddedTokens) -> bool:
        """Say whether the vocabulary of tokenizer.json, which transformers reads, is read in place of tokenizer.model.

        tokenizer.model can be the base model's, and lack tokens that tokenizer.json has or have other texts. Or
        tokenizer.model has user-defined pieces that are no longer added tokens, and only tokenizer.json knows their
        merges.
        """
        vocab = file.vocab_ids()
        if vocab is None or not spm.is_byte_fallback_bpe(file):
            return False
        different = spm.differences(model, vocab, added, self.size)
        if different:
            what = "%s: tokenizer.json has %d other token%s, so tokenizer.json is read instead. The first: %s"
            count = len(different)
            log.warning(what, model.path, count, "" if count == 1 else "s", different[0])
        return bool(different) or not spm.user_defined(model) <= added.tokens.keys()

    def _tokenizer_json(self, metadata: Metadata) -> None:
        file = self._open()
        assert file is not None
        kind = file.model().get("type", "BPE")
        added = self._added(file)
        if kind == "Unigram":
            self._unigram(metadata, unigram.from_tokenizer_json(file, self.size, added), file, added, {})
        elif kind == "WordPiece":
            vocabulary = wordpiece.from_tokenizer_json(file, self.size, added)
            self._write(metadata, vocabulary, "bert", self.pre or wordpiece.PRE, file, added)
        elif kind != "BPE":
            refuse(
                file.path, f"a tokenizer of kind {shown(kind)}", "Use one of kind BPE, Unigram or WordPiece"
            )
        elif spm.is_byte_fallback_bpe(file):
            self._write_space_prefix(metadata, file)
            vocabulary = spm.from_merges(file, self.size, added)
            self._write(metadata, vocabulary, "llama", "default", file, added)
        else:
            pre = self.pre or pretokenizer.recognize(file, self.tokenizer_config)
            vocabulary = bpe.from_tokenizer_json(file, self.size, added)
            self._write(
                metadata, vocabulary, "whitespace" if pre == "whitespace" else "gpt2", pre, file, added
            )

    def _vocab_txt(self, metadata: Metadata) -> None:
        added = self._added(None)
        vocabulary = wordpiece.from_vocab_txt(self.folder / "vocab.txt", self.size, added)
        self._write(metadata, vocabulary, "bert", self.pre or wordpiece.PRE, None, added)

    def _slow_files(self, metadata: Metadata) -> None:
        pre = self.pre or pretokenizer.for_slow_files(self.folder, self.tokenizer_config)
        added = self._added(None)
        vocabulary = bpe.from_slow_files(self.folder, self.size, added)
        self._write(metadata, vocabulary, "gpt2", pre, None, added)

    def _rwkv(self, metadata: Metadata) -> None:
        vocabulary = rwkv.read(self.folder / rwkv.FILE, self.size)
        self.rules = replace(self.rules, corrected={**rwkv.ROLES, **self.rules.corrected})
        self.templates = self.templates or {chat.DEFAULT: rwkv.CHAT_TEMPLATE}
        self._write(metadata, vocabulary, "rwkv", None, None, self._added(None))

    def _plamo(self, metadata: Metadata) -> None:
        vocabulary = plamo.read(self.folder / plamo.FILE, self.size)
        self.rules = replace(self.rules, corrected={**plamo.ROLES, **self.rules.corrected})
        self._write(metadata, vocabulary, "plamo2", "default", None, self._added(None))
        metadata.boolean("tokenizer.ggml.add_space_prefix", False)

    def _tekken(self, metadata: Metadata) -> None:
        path = self.folder / "tekken.json"
        found = tekken.read(path, self.size)
        pre = self.pre or pretokenizer.for_pattern(found.pattern, path, ignore_merges=True)
        self.rules = replace(
            self.rules,
            corrected={**found.roles, **self.rules.corrected},
            add={"bos": True, "eos": False, **self.rules.add},
        )
        self._mistral_template(found.version, path, is_tekken=True)
        self._write(metadata, found.vocabulary, "gpt2", pre, None, self._added(None))

    def _mistral_template(self, version: str, path: Path, *, is_tekken: bool) -> None:
        """Take llama.cpp's own chat template for a folder of Mistral's format without one."""
        name = tekken.template_name(version, tekken=is_tekken)
        if self.templates:
            return
        if name is None:
            what = "%s: llama.cpp has no chat template for the version %s, and the folder has no chat_template.jinja"
            log.warning(what, path, shown(version))
        else:
            self.templates = {chat.DEFAULT: name}

    def _tiktoken(self, path: Path, metadata: Metadata) -> None:
        known = tiktoken.published(path, self.tokenizer_config)
        if known is not None:
            self.rules = replace(
                self.rules,
                tokens={**known.tokens, **self.rules.tokens},
                corrected={**known.corrected, **self.rules.corrected},
            )
        pre = self.pre or (known.pre if known is not None else None)
        if pre is None:
            what = "no file says how text is split before tiktoken's ranks are used"
            refuse(path, what, "Name the splitting with --pre-tokenizer, or add tokenizer.json")
        added = self._added(None)
        vocabulary = tiktoken.from_file(path, self.size, added, known)
        self._write(metadata, vocabulary, "gpt2", pre, None, added)

    def _open(self) -> TokenizerJson | None:
        return TokenizerJson.open(self.folder / "tokenizer.json")

    def _added(self, file: TokenizerJson | None) -> AddedTokens:
        return AddedTokens.read(self.folder, file, self.tokenizer_config, self.size)

    def _write(
        self,
        metadata: Metadata,
        vocabulary: Vocabulary,
        model: str,
        pre: str | None,
        file: TokenizerJson | None,
        added: AddedTokens,
        ends: Mapping[str, bool] = _NO_ENDS,
    ) -> None:
        """Write tokens, then merges, special tokens and the chat template, which is llama.cpp's order. `ends` says
        which tokens are added to a text where no file says so."""
        for text in self.rules.control:
            vocabulary.make_control(text)
        vocabulary.keep_texts_apart()
        vocabulary.write(metadata, model, pre)
        if vocabulary.merges:
            metadata.strings("tokenizer.ggml.merges", vocabulary.merges)
        elif vocabulary.merges is not None and model != "bert":
            fail(vocabulary.place, "a BPE tokenizer without merges", "Fetch the tokenizer's files again")
        found = special.find(
            file, self.tokenizer_config, self.folder, self.config, added, vocabulary, self.rules, model
        )
        for role, value in ends.items():
            found.add.setdefault(role, value)
        found.write_ids(metadata)
        known = flags.Known(self.name, self.arch, pre or "")
        flags.check_name(known, set(vocabulary.tokens), vocabulary.place)
        flags.warn(
            (token for token in added.tokens.values() if token.id < vocabulary.size),
            file,
            known,
            vocabulary.place,
        )
        chat.write(metadata, self.templates)
        found.write_normalizer(metadata)
