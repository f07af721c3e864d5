#!/usr/bin/env python3
"""Train a small mixture of experts on a text, whose routers use some experts more than others, as published ones do.

    python scripts/train_moe.py TEXT FOLDER [--tokens 400000] [--hidden 192] [--layers 6] [--experts 64] [--used 2]

FOLDER gets a checkpoint of the class Qwen3MoeForCausalLM (BF16) with a byte-level BPE vocabulary that is made from the
same text. The routers are trained with the loss of the model and with a share (--balance) of the loss that balances
the experts; Mixtral took 0.02 of it, and Qwen3-MoE 0.001. The script prints the loss, and for each layer what share of
the tokens of the last steps the hottest quarter of the experts got. With --stand-in nothing is trained: the rows of
the routers have lengths that differ, so that some experts are used more than others. The model is for measurements of
what depends on the use of the experts (`expert_heat` in the sidecar), and not one to talk to. Needs torch,
transformers and tokenizers; some ten minutes on one CPU core.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

VOCABULARY = 4096
WINDOW = 256
BATCH = 8
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
"""How Qwen2 cuts a text into words."""


def tokenizer_of(text: str, folder: Path) -> list[int]:
    """Make the vocabulary, write it into the folder, and return the tokens of the text."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.split("\n\n"), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|endoftext|>", "add_bos_token": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
    found: list[int] = tokenizer.encode(text).ids
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", metavar="TEXT", type=Path)
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--tokens", type=int, default=400_000, help="tokens to train on")
    parser.add_argument("--hidden", type=int, default=192, help="width of the model and of an expert")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--experts", type=int, default=64, help="experts of a layer")
    parser.add_argument("--used", type=int, default=2, help="experts that a token uses")
    parser.add_argument("--balance", type=float, default=0.02, help="share of the loss that balances experts")
    parser.add_argument("--stand-in", action="store_true", help="train nothing; make the routers uneven")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    import torch
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.folder.mkdir(parents=True, exist_ok=True)
    tokens = torch.tensor(tokenizer_of(args.text.read_text(), args.folder))
    config = Qwen3MoeConfig(
        vocab_size=VOCABULARY,
        hidden_size=args.hidden,
        intermediate_size=2 * args.hidden,
        moe_intermediate_size=args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=args.hidden // 32,
        num_key_value_heads=args.hidden // 64,
        head_dim=32,
        num_local_experts=args.experts,
        num_experts=args.experts,
        num_experts_per_tok=args.used,
        norm_topk_prob=True,
        output_router_logits=True,
        router_aux_loss_coef=args.balance,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
    )
    model = Qwen3MoeForCausalLM._from_config(config, experts_implementation="grouped_mm")
    if args.stand_in:
        with torch.no_grad():
            for layer in model.model.layers:
                layer.mlp.gate.weight *= torch.exp(0.7 * torch.randn(args.experts, 1))
        model.to(torch.bfloat16).save_pretrained(args.folder)
        return
    steps = args.tokens // (BATCH * WINDOW)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=max(steps, 2), pct_start=0.1)
    print(
        f"{sum(p.numel() for p in model.parameters())} weights, {len(tokens)} tokens, {steps} steps",
        flush=True,
    )
    chosen = torch.zeros(args.layers, args.experts, dtype=torch.long)
    start, losses = time.process_time(), []
    for step in range(steps):
        at = torch.randint(0, len(tokens) - WINDOW, (BATCH,)).tolist()
        batch = torch.stack([tokens[a : a + WINDOW] for a in at])
        out = model(input_ids=batch, labels=batch, use_cache=False)
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(out.loss.item())
        if step >= steps - 20:
            for layer, scores in enumerate(out.router_logits):
                used = scores.topk(args.used, -1).indices.flatten()
                chosen[layer] += torch.bincount(used, minlength=args.experts)
        if step % 10 == 9 or step == steps - 1:
            recent = sum(losses[-10:]) / len(losses[-10:])
            print(
                f"step {step + 1}: loss {recent:.3f}, {time.process_time() - start:.0f} s of CPU", flush=True
            )
    for layer, counts in enumerate(chosen):
        hot = counts.sort(descending=True).values
        share = hot[: args.experts // 4].sum().item() / max(hot.sum().item(), 1)
        print(f"layer {layer}: the hottest quarter of the experts got {100 * share:.1f} % of the tokens")
    model.to(torch.bfloat16).save_pretrained(args.folder)


if __name__ == "__main__":
    main()
