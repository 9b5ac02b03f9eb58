"""Trains the demonstration model on the shards of corpus.py and writes the model directory.

    python tools/demo_model/train.py --device cuda --compile --steps 4789

One seed gives one order of data and one initialisation. With --seconds in place of --steps the
number of steps follows from the speed of the first hundred; the log states it.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from model import Decoder, Shape
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

WARMUP_STEPS = 100
LONG_EVERY = 5  # every fifth step trains on rows of the full context
SHORT_ROW = 1024
OTHER_WEIGHT = 0.1  # the share of the loss on tokens that the assistant does not write
LOSS_ROWS = 32768  # tokens per piece of the loss, which bounds the memory of the logits


class Corpus:
    """The tokens of all shards on the device, read in order and then from the beginning again."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        shards = [np.load(path) for path in sorted(folder.glob("shard-*.npy"))]
        tokens = np.concatenate(shards).astype(np.int32)
        self.tokens = torch.from_numpy(tokens).to(device)  # [num_tokens] int32
        self.cursor = 0

    def batch(self, num_tokens: int, row: int) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs and targets [rows, row] int64, and the weights of the targets [rows, row]."""
        if self.cursor + num_tokens + 1 > len(self.tokens):
            # The shift lets the rows of the next round begin elsewhere.
            self.cursor = (self.cursor + 257) % row
        piece = self.tokens[self.cursor : self.cursor + num_tokens + 1]
        self.cursor += num_tokens
        ids = (piece & 0x7FFF).long()
        weights = torch.where(piece[1:] >> 15 > 0, 1.0, OTHER_WEIGHT)
        return ids[:-1].view(-1, row), ids[1:].view(-1, row), weights.view(-1, row)


def weighted_loss(hidden: Tensor, embedding: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of the cross entropy of some tokens; hidden is [tokens, hidden]."""
    logits = F.linear(hidden, embedding.to(hidden.dtype)).float()
    return (F.cross_entropy(logits, targets, reduction="none") * weights).sum()


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up, then a cosine down to one hundredth of the peak."""
    if step < WARMUP_STEPS:
        return peak * (step + 1) / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def optimizer_of(model: Decoder, peak: float) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [
        {"params": matrices, "weight_decay": 0.1},
        {"params": vectors, "weight_decay": 0.0},
    ]
    fused = next(model.parameters()).is_cuda
    return torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.97), fused=fused)


class Trainer:
    """Owns the model, its optimizer and the log of one run."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.device = torch.device(args.device)
        torch.manual_seed(args.seed)
        self.model = Decoder(Shape()).to(self.device)
        self.loss = weighted_loss
        if args.compile:
            for layer in self.model.layers:
                layer.compile(dynamic=False)
            self.loss = torch.compile(weighted_loss, dynamic=False)
        self.optimizer = optimizer_of(self.model, args.lr)
        self.corpus = Corpus(args.data, self.device)
        self.log = (args.out / "training_log.jsonl").open("w", encoding="utf-8")

    def write(self, **fields: object) -> None:
        """Writes one line of the log."""
        print(json.dumps(fields), flush=True)
        self.log.write(json.dumps(fields) + "\n")
        self.log.flush()

    def step(self, row: int) -> Tensor:
        """One optimizer step on the next batch; returns its mean loss."""
        inputs, targets, weights = self.corpus.batch(self.args.batch_tokens, row)
        enabled = self.device.type == "cuda"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=enabled):
            hidden = self.model(inputs).flatten(0, 1)
            total = torch.zeros((), device=self.device)
            pieces = (t.split(LOSS_ROWS) for t in (hidden, targets.flatten(), weights.flatten()))
            for piece in zip(*pieces, strict=True):
                total = total + self.loss(piece[0], self.model.embed_tokens.weight, *piece[1:])
        loss = total / weights.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def run(self) -> None:
        """Trains for the given steps, or for the steps that fit into the given seconds."""
        steps, step, started = self.args.steps or 10**9, 0, self.now()
        while step < steps:
            if step == WARMUP_STEPS // 2:
                timed = self.now()
            if step == WARMUP_STEPS and not self.args.steps:
                steps = self.planned_steps(started, timed)
            rate = learning_rate(step, steps, self.args.lr)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            is_long = step % LONG_EVERY == LONG_EVERY - 1
            loss = self.step(self.args.long_row if is_long else self.args.short_row)
            step += 1
            if step % self.args.log_every == 0 or step == steps:
                seconds = round(self.now() - started, 1)
                tokens = step * self.args.batch_tokens
                found = round(loss.item(), 4)
                self.write(step=step, tokens=tokens, loss=found, lr=round(rate, 6), seconds=seconds)

    def planned_steps(self, started: float, timed: float) -> int:
        """The steps that fit into the wanted time at the speed of the warm-up's second half."""
        now = self.now()
        per_s = (WARMUP_STEPS - WARMUP_STEPS // 2) / (now - timed)
        steps = WARMUP_STEPS + int(per_s * (self.args.seconds - (now - started)))
        self.write(planned_steps=steps, steps_per_s=round(per_s, 2))
        return steps

    def describe(self) -> None:
        """Writes the first line of the log: what is trained, on what, where."""
        cuda = self.device.type == "cuda"
        self.write(
            parameters=sum(p.numel() for p in self.model.parameters()),
            corpus_tokens=len(self.corpus.tokens),
            batch_tokens=self.args.batch_tokens,
            lr=self.args.lr,
            seed=self.args.seed,
            device=torch.cuda.get_device_name() if cuda else "cpu",
            torch=torch.__version__,
        )

    def now(self) -> float:
        """The clock after all queued work of the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def export(model: Decoder, out: Path) -> None:
    """Writes model.safetensors in bf16, config.json and generation_config.json."""
    weights = {
        f"model.{name}": tensor.detach().to("cpu", torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
    }
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    generation = {
        "bos_token_id": None, "eos_token_id": [2, 0], "pad_token_id": 0, "do_sample": False,
    }  # fmt: skip
    for name, content in (("config", model.shape.config()), ("generation_config", generation)):
        (out / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Trains and exports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("build/demo_model"))
    parser.add_argument("--out", type=Path, default=Path("build/demo_model/out"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=150.0)
    parser.add_argument("--batch-tokens", type=int, default=65536)
    parser.add_argument("--short-row", type=int, default=SHORT_ROW)
    parser.add_argument("--long-row", type=int, default=Shape().max_position_embeddings)
    parser.add_argument("--lr", type=float, default=2.5e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log-every", type=int, default=100)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_float32_matmul_precision("high")
    trainer = Trainer(args)
    trainer.describe()
    trainer.run()
    export(trainer.model, args.out)


if __name__ == "__main__":
    main()
