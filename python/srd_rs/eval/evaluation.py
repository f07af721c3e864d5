"""How good GGUFs are: perplexity on a text, and their distance from a base model, by llama.cpp.

All models are walked through the text side by side, so only the logits of one run of positions are ever kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from srd_rs import hub, sniff
from srd_rs.errors import ModelError, UsageError, message
from srd_rs.eval import statistics
from srd_rs.eval.llama import LlamaModel, Tokens
from srd_rs.eval.probe import check_runs
from srd_rs.eval.scoring import TokenScores, add_scores
from srd_rs.eval.statistics import Estimate, Floats, Quantile
from srd_rs.eval.windows import Protocol, Window
from srd_rs.inspection import inspect

QUANTILES: Final = (0.5, 0.9, 0.95, 0.99, 0.999)
_ALL_ITEMS: Final = (1 << 63) - 1

PathLike = str | Path


@dataclass(frozen=True)
class Divergence:
    """The distance of a quantized model from its base model, over all scored tokens.

    kld: KL(base || quantized) in nats. p_diff: probability of the token that follows, quantized minus base.
    same_top: share of positions where both put the same token first.
    """

    kld: Estimate
    kld_quantiles: tuple[Quantile, ...]
    kld_max: float
    ln_ppl_ratio: Estimate
    p_diff: Estimate
    abs_p_diff: Estimate
    rms_p_diff: Estimate
    same_top: Estimate

    def quantile(self, fraction: float) -> Quantile:
        """The quantile of the KL divergence for a fraction of the tokens, one of those in `kld_quantiles`."""
        return next(q for q in self.kld_quantiles if q.fraction == fraction)


@dataclass(frozen=True)
class Paired:
    """A file compared with the first file, token by token, which has smaller errors than two separate figures.

    The differences of KLD are None where there is no base.
    """

    ln_ppl_ratio: Estimate
    kld_difference: Estimate | None = None
    kld_ratio: Estimate | None = None


@dataclass(frozen=True)
class FileScore:
    """The scores of one GGUF. `bpw` is the bits per weight over its tensors; `paired` is None for the first file."""

    path: Path
    file_bytes: int
    tensor_bytes: int
    bpw: float
    perplexity: Estimate
    divergence: Divergence | None
    paired: Paired | None

    @property
    def name(self) -> str:
        return self.path.stem


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found. `base` is the base model's own score, if there is one."""

    text: Path
    protocol: Protocol
    n_chunks: int
    n_tokens: int
    base: FileScore | None
    files: tuple[FileScore, ...]

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values; estimates as ``{"value", "error"}``."""
        data = asdict(self)
        data["text"] = str(self.text)
        for file in [*data["files"], *([data["base"]] if data["base"] else [])]:
            file["path"] = str(file["path"])
        return data


def evaluate(
    ggufs: Sequence[PathLike],
    text: PathLike,
    *,
    base: PathLike | None = None,
    n_ctx: int = 512,
    stride: int | None = None,
    n_chunks: int = 0,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score GGUFs on the first `n_chunks` (0: all) chunks of a text, against `base` where one is given.

    n_ctx, stride: see `Protocol`. progress: called with (chunks done, chunks).

    Raises UsageError (no file, text too short, llama-cpp-python missing), SrdIOError, and ModelError for a
    model that llama.cpp does not run or whose vocabulary is not that of the others.

        >>> found = srd_rs.evaluate(["path/to/model-Q4_K_M.gguf"], "text.txt", n_ctx=64, n_chunks=2, threads=1)
        >>> found.files[0].perplexity.value > 1
        True
    """
    if not ggufs:
        raise UsageError(message("eval", "no GGUF is named", "Name at least one"))
    protocol = Protocol(n_ctx, stride)
    content = sniff.read_text(Path(text))
    paths = [hub.file(p) for p in [*([] if base is None else [base]), *ggufs]]
    for path in paths:
        check_runs(path, protocol.n_tokens)
    with ExitStack() as stack:
        models = [
            stack.enter_context(LlamaModel(path, n_ctx=protocol.n_tokens, threads=threads)) for path in paths
        ]
        tokens = _common_tokens(models, content, protocol.most_tokens(n_chunks))
        windows = protocol.windows(tokens, models[0].bos, n_chunks, text)
        scores = _walk(models, windows, with_base=base is not None, progress=progress)
    n_tokens = len(windows) * protocol.n_scored
    files = _file_scores(paths, scores, with_base=base is not None)
    first = files.pop(0) if base is not None else None
    return Evaluation(Path(text), protocol, len(windows), n_tokens, first, tuple(files))


def _common_tokens(models: list[LlamaModel], content: bytes, most: int) -> Tokens:
    """Token ids of the text, of which `most` are needed. Raises `ModelError` if the models do not have one
    vocabulary."""
    first = models[0]
    tokens = first.tokenize(content, most)
    words = vocabulary(first.path) if len(models) > 1 else []
    for model in models[1:]:
        fix = "Compare files made from one model"
        if model.n_vocab != first.n_vocab:
            what = f"{model.n_vocab} tokens in its vocabulary, {first.n_vocab} in that of {first.path}"
            raise ModelError(message(model.path, what, fix))
        if vocabulary(model.path) != words:
            what = f"its vocabulary has other tokens than that of {first.path}"
            raise ModelError(message(model.path, what, fix))
        if not np.array_equal(model.tokenize(content, most), tokens):
            what = f"it cuts the text into other tokens than {first.path}"
            raise ModelError(message(model.path, what, fix))
    return tokens


def vocabulary(gguf: Path) -> list[str]:
    """The texts of the tokens, in the order of their ids."""
    return list(inspect(gguf, max_items=_ALL_ITEMS).metadata.get("tokenizer.ggml.tokens", ()))


def _walk(
    models: list[LlamaModel],
    windows: list[Window],
    *,
    with_base: bool,
    progress: Callable[[int, int], None] | None,
) -> list[TokenScores]:
    scores = [TokenScores() for _ in models]
    for done, window in enumerate(windows, 1):
        start = 0
        for blocks in zip(*(m.logit_blocks(window.tokens, window.first) for m in models), strict=True):
            # The logits after the last token have no target.
            targets = window.targets[start : start + len(blocks[0])]
            start += len(blocks[0])
            for model, block in zip(models, blocks, strict=True):
                _check_finite(model, block)
            if len(targets):
                add_scores([b[: len(targets)] for b in blocks], targets, scores, with_base=with_base)
        if progress:
            progress(done, len(windows))
    return scores


def _check_finite(model: LlamaModel, logits: Any) -> None:
    if not np.isfinite(logits).all():
        what = "its logits are not finite"
        raise ModelError(message(model.path, what, "Check its weights, or convert the model again"))


def _file_scores(paths: list[Path], scores: list[TokenScores], *, with_base: bool) -> list[FileScore]:
    columns = [_columns(found) for found in scores]
    lead = columns[1 if with_base else 0]
    results = []
    for path, mine in zip(paths, columns, strict=True):
        quantized = mine["kld"] is not None
        compared = mine is not lead and (quantized or not with_base)
        results.append(
            FileScore(
                path=path,
                **_sizes(path),
                perplexity=statistics.exp_mean(mine["nll"]),
                divergence=_divergence(mine, columns[0]) if quantized else None,
                paired=_paired(mine, lead) if compared else None,
            )
        )
    return results


def _columns(scores: TokenScores) -> dict[str, Any]:
    """Each measure as one array over all tokens; None for a measure that was not taken."""
    return {name: np.concatenate(parts) if parts else None for name, parts in vars(scores).items()}


def _sizes(path: Path) -> dict[str, Any]:
    found = inspect(path)
    return {"file_bytes": found.file_bytes, "tensor_bytes": found.tensor_bytes, "bpw": found.bpw}


def _divergence(mine: dict[str, Any], base: dict[str, Any]) -> Divergence:
    kld: Floats = mine["kld"]
    return Divergence(
        kld=statistics.mean(kld),
        kld_quantiles=tuple(statistics.quantile(kld, f) for f in QUANTILES),
        kld_max=float(kld.max()),
        ln_ppl_ratio=statistics.mean(mine["nll"] - base["nll"]),
        p_diff=statistics.mean(mine["p_diff"]),
        abs_p_diff=statistics.mean(np.abs(mine["p_diff"])),
        rms_p_diff=statistics.root_mean_square(mine["p_diff"]),
        same_top=statistics.fraction(mine["same_top"]),
    )


def _paired(mine: dict[str, Any], lead: dict[str, Any]) -> Paired:
    ln_ppl = statistics.mean(mine["nll"] - lead["nll"])
    if mine["kld"] is None:
        return Paired(ln_ppl)
    difference = statistics.mean(mine["kld"] - lead["kld"])
    return Paired(ln_ppl, difference, statistics.ratio(mine["kld"], lead["kld"]))
