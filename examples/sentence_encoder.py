"""Do sentences keep their meaning when a transformer has been on phase-change memory for a year? Pretrained MiniLM.

Takes the sentence encoder all-MiniLM-L6-v2 (22.7 million parameters), converts its linear layers to crossbar tiles, and
fine-tunes it against its own float embeddings of sentences from Moby-Dick, with one pair of devices a weight and with
more. Programs each on chips, lets these age, and prints how well the similarities of all pairs of unseen sentences are
ordered as in the float model: Spearman's rank correlation. Writes report.json, report.csv and report.png. A training
that was stopped goes on from its last checkpoint when the same command is run again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _data import minilm, moby_dick
from _fetch import DataUnavailableError, cache_folder
from _report import Clock, add_evaluation, at_least, counted, parsed, standard_tile, table, write
from _training import batches, fit, one_cycle
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.inference import Report, accuracy_over_time

try:
    from tokenizers import Tokenizer
    from transformers import BertModel
    from transformers.utils import logging
except ImportError as error:
    sys.exit(f"{error.name} is not installed: pip install 'phasegrad[integrations]', or transformers")

Batch = tuple[Tensor, Tensor]
"""Tokens and mask, each ``[n, length]``."""


class Encoder(nn.Module):
    """Sentences to embeddings of length 1: the mean over a sentence's tokens.

    Args:
        bert: the transformer.
    """

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, batch: Batch) -> Tensor:
        """Embeddings ``[n, 384]``."""
        tokens, mask = batch
        hidden = self.bert(input_ids=tokens, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return F.normalize((hidden * weights).sum(1) / weights.sum(1), dim=-1)


def load(folder: Path) -> tuple[Encoder, Tokenizer]:
    """The pretrained encoder, in evaluation mode, and its tokenizer."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    bert = BertModel.from_pretrained(folder, local_files_only=True, add_pooling_layer=False)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(48)
    tokenizer.enable_padding()
    return Encoder(bert).eval(), tokenizer


def sentences(text: str) -> list[str]:
    """The sentences of the novel in its order, headings and fragments left out."""
    start = max(text.find("Call me Ishmael"), 0)
    parts = (" ".join(part.split()) for part in re.split(r"(?<=[.!?])[\"”]?\s+", text[start:]))
    return [part for part in parts if 20 < len(part) < 400]


def encoded(tokenizer: Tokenizer, some: list[str]) -> Batch:
    """Sentences as a batch, as long as the longest."""
    rows = tokenizer.encode_batch(some)
    return torch.tensor([row.ids for row in rows]), torch.tensor([row.attention_mask for row in rows])


def by_length(tokenizer: Tokenizer, some: list[str], size: int) -> list[Batch]:
    """Batches of sentences of like length, which leave little to be padded."""
    ordered = sorted(some, key=len)
    return [encoded(tokenizer, ordered[i : i + size]) for i in range(0, len(ordered) - size + 1, size)]


@torch.inference_mode()
def similarities(net: nn.Module, known: list[Batch]) -> Tensor:
    """The cosine of every pair of sentences ``[pairs]``."""
    embeddings = torch.cat([net(batch) for batch in known])
    rows, columns = torch.triu_indices(len(embeddings), len(embeddings), 1)
    return (embeddings @ embeddings.t())[rows, columns]


def spearman(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation of two samples ``[n]`` without ties."""
    ranks = torch.stack([v.argsort().argsort().double() for v in (a, b)])
    return float(torch.corrcoef(ranks)[0, 1])


def main() -> None:
    """Run the whole story."""
    options = parse()
    clock = Clock()
    torch.manual_seed(options.seed)
    try:
        float_net, tokenizer = load(minilm(options.model))
        found = sentences(moby_dick(options.data))
    except DataUnavailableError as error:
        sys.exit(str(error))
    unseen = by_length(tokenizer, found[-options.test_sentences :], 50)
    train = by_length(tokenizer, found[: -options.test_sentences][: options.train_sentences], options.batch)
    exact = similarities(float_net, unseen)
    clock.say(f"{len(exact):,} pairs of unseen sentences; {len(train)} batches of {options.batch} to learn from")

    reports: dict[str, Report] = {}
    minutes: dict[str, float] = {}
    shared: dict[str, Any] = {"chips": options.chips, "seed": options.seed, "progress": not options.quiet}
    for pairs in options.pairs:
        hardware = standard_tile(pairs)
        converted = pg.convert(float_net, hardware)
        calibrate(converted, train, options, None)
        tuned = pg.convert(float_net, hardware)
        minutes[f"hwa, {counted(pairs)}"] = fine_tune(tuned, float_net, train, pairs, options) / 60
        if pairs == options.pairs[0]:
            print(f"\n{pg.summary(tuned)}\n")
        for name, net in (("converted", converted), ("hwa", tuned)):
            method = f"{name}+gdc, {counted(pairs)}"
            reports[method] = accuracy_over_time(
                net, lambda chip: spearman(similarities(chip, unseen), exact), options.times, **shared
            )
            clock.say(f"{method}: {options.chips} chips")
    what = "Spearman correlation of similarities"
    print(f"\n{table(1.0, reports, what, factor=1.0)}\n")
    for path in write(options.out, 1.0, reports, more={"fine_tuning_minutes": minutes}, what=what, percent=False):
        print(f"wrote {path}")


def calibrate(net: nn.Module, train: list[Batch], options: argparse.Namespace, recipe: pg.hwa.Recipe | None) -> None:
    """Find converters' ranges. A transformer's activations have outliers that carry meaning: ranges reach far."""
    pg.hwa.calibrate(net, train[:: max(1, len(train) // 10)], recipe=recipe, sd=options.reach, forward=_forward)


def _forward(net: nn.Module, batch: Batch) -> Tensor:
    return net(batch)


def fine_tune(net: nn.Module, teacher: Encoder, train: list[Batch], pairs: int, options: argparse.Namespace) -> float:
    """Train the encoder, in place, to give its own float embeddings; the seconds that it took."""
    recipe = pg.hwa.Recipe(noise=pg.hwa.PCMNoise(strength=options.noise), clip_sigma=options.clip)
    calibrate(net, train, options, recipe)
    for name, parameter in net.named_parameters():
        parameter.requires_grad_("embeddings" not in name)  # digital, and exact as they are
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # the hardware is noisy enough

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        with torch.no_grad():
            wanted = teacher(batch)
        given = net(batch)
        apart = 1.0 - (given * wanted).sum(1).mean()
        return apart + 5.0 * F.mse_loss(given @ given.t(), wanted @ wanted.t())

    if options.epochs == 0:
        return 0.0
    loader = batches(len(train), 1, options.seed, lambda picked: train[int(picked)])
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, options.lr, weight_decay=0.0, fused=True)
    schedule = one_cycle(optimizer, options.epochs * len(loader), 0.1)
    return fit(
        net, loader, loss, optimizer, schedule, epochs=options.epochs, folder=checkpoints(pairs, options),
        label=f"hwa, {counted(pairs)}", progress=not options.quiet,
    )  # fmt: skip


def checkpoints(pairs: int, options: argparse.Namespace) -> Path:
    """The folder of a training's checkpoints, which other options do not share."""
    names = ("train_sentences", "test_sentences", "batch", "epochs", "lr", "noise", "clip", "reach", "seed")
    described = json.dumps({"pairs": pairs, **{name: getattr(options, name) for name in names}}, sort_keys=True)
    return options.runs / f"minilm-{hashlib.sha256(described.encode()).hexdigest()[:12]}"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    group = parser.add_argument_group("input and output")
    group.add_argument("--out", type=Path, default=Path("out/sentence_encoder"), help="folder of the reports")
    group.add_argument("--model", type=Path, default=None, help="folder with the model's files")
    group.add_argument("--data", type=Path, default=None, help="folder with the book's data.txt")
    group.add_argument("--runs", type=Path, default=cache_folder() / "runs", help="folder of the checkpoints")
    group.add_argument("--train-sentences", type=at_least(32), default=None, help="to learn from; all if left out")
    group.add_argument("--test-sentences", type=at_least(50), default=400, help="at the book's end, to test with")
    group = parser.add_argument_group("hardware and fine-tuning")
    group.add_argument("--pairs", type=at_least(1), nargs="+", default=[1, 4], help="device pairs a weight")
    group.add_argument("--epochs", type=at_least(0), default=4, help="passes over the sentences; 0: none")
    group.add_argument("--batch", type=at_least(2), default=32, help="sentences a step")
    group.add_argument("--lr", type=float, default=2e-4, help="peak learning rate of one cycle")
    group.add_argument("--noise", type=float, default=2.0, help="weight noise, times the spread of programming")
    group.add_argument("--clip", type=float, default=2.5, help="weights clipped at this many sigma; 0: not")
    group.add_argument(
        "--reach", type=float, default=10.0, help="root-mean-squares that an input range covers at first"
    )
    add_evaluation(parser, chips=5)
    return parsed(parser)


if __name__ == "__main__":
    main()
