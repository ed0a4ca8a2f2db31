"""How accurate are sentence embeddings after a year on phase-change memory? With the pretrained MiniLM.

Converts the linear layers of the sentence encoder all-MiniLM-L6-v2 (22.7 million parameters) to crossbar tiles, and
fine-tunes it on its float embeddings of sentences from Moby-Dick, with one device pair per weight and with more.
Programs each network on chips, ages the chips, and compares the similarities of all pairs of unseen sentences with
those of the float model by Spearman's rank correlation. Writes report.json, report.csv and report.png. When the same
command is run again, an interrupted training resumes from its last checkpoint.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _data import minilm, moby_dick
from _fetch import DataUnavailableError, cache_folder
from _report import Clock, add_evaluation, at_least, counted, parsed, standard_tile, table, write
from _training import batches, checkpoint_folder, fit, one_cycle
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.inference import Report, accuracy_over_time

try:
    from tokenizers import Tokenizer
    from transformers import BertModel
    from transformers.utils import logging
except ImportError as error:
    sys.exit(f"{error.name} is not installed: pip install 'phasegrad[integrations]'")

Batch = tuple[Tensor, Tensor]
"""Tokens and attention mask, each ``[n, length]``."""


class Encoder(nn.Module):
    """Sentence encoder: normalised mean of the hidden states of a sentence's tokens.

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
    """Load the pretrained encoder, in evaluation mode, and its tokenizer."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    bert = BertModel.from_pretrained(folder, local_files_only=True, add_pooling_layer=False)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(48)
    tokenizer.enable_padding()
    return Encoder(bert).eval(), tokenizer


def sentences(text: str) -> list[str]:
    """The sentences of the novel in order, without headings and fragments."""
    start = max(text.find("Call me Ishmael"), 0)
    parts = (" ".join(part.split()) for part in re.split(r"(?<=[.!?])[\"”]?\s+", text[start:]))
    return [part for part in parts if 20 < len(part) < 400]


def encoded(tokenizer: Tokenizer, some: list[str]) -> Batch:
    """Tokenize sentences as a batch, padded to the longest."""
    rows = tokenizer.encode_batch(some)
    return torch.tensor([row.ids for row in rows]), torch.tensor([row.attention_mask for row in rows])


def by_length(tokenizer: Tokenizer, some: list[str], size: int) -> list[Batch]:
    """Batches of sentences of similar length, which need little padding."""
    ordered = sorted(some, key=len)
    return [encoded(tokenizer, ordered[i : i + size]) for i in range(0, len(ordered) - size + 1, size)]


@torch.inference_mode()
def similarities(net: nn.Module, known: list[Batch]) -> Tensor:
    """Cosine similarities of all pairs of sentences ``[pairs]``."""
    embeddings = torch.cat([net(batch) for batch in known])
    rows, columns = torch.triu_indices(len(embeddings), len(embeddings), 1)
    return (embeddings @ embeddings.t())[rows, columns]


def spearman(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation of two samples ``[n]`` without ties."""
    ranks = torch.stack([v.argsort().argsort().double() for v in (a, b)])
    return float(torch.corrcoef(ranks)[0, 1])


def main() -> None:
    """Convert, fine-tune, and measure over time."""
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
    clock.say(f"{len(exact):,} pairs of unseen sentences; {len(train)} training batches of {options.batch}")

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
    """Calibrate the converters, with wide ranges because outliers in a transformer's activations carry information."""
    pg.hwa.calibrate(net, train[:: max(1, len(train) // 10)], recipe=recipe, sd=options.reach, forward=_forward)


def _forward(net: nn.Module, batch: Batch) -> Tensor:
    return net(batch)


def fine_tune(net: nn.Module, teacher: Encoder, train: list[Batch], pairs: int, options: argparse.Namespace) -> float:
    """Train the encoder, in place, to reproduce the float embeddings; return the training time [s]."""
    recipe = pg.hwa.Recipe(noise=pg.hwa.PCMNoise(strength=options.noise), clip_sigma=options.clip)
    calibrate(net, train, options, recipe)
    for name, parameter in net.named_parameters():
        parameter.requires_grad_("embeddings" not in name)  # embeddings are digital and exact
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # the noise of the hardware regularises

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        with torch.no_grad():
            wanted = teacher(batch)
        found = net(batch)
        distance = 1.0 - (found * wanted).sum(1).mean()
        return distance + 5.0 * F.mse_loss(found @ found.t(), wanted @ wanted.t())

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
    """Folder for the checkpoints of a training, unique for its options."""
    names = ("train_sentences", "test_sentences", "batch", "epochs", "lr", "noise", "clip", "reach", "seed")
    settings = {"pairs": pairs, **{name: getattr(options, name) for name in names}}
    return checkpoint_folder(options.runs, "minilm", settings)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    group = parser.add_argument_group("input and output")
    group.add_argument("--out", type=Path, default=Path("out/sentence_encoder"), help="folder for the reports")
    group.add_argument("--model", type=Path, default=None, help="folder with the model's files")
    group.add_argument("--data", type=Path, default=None, help="folder with the book's data.txt")
    group.add_argument("--runs", type=Path, default=cache_folder() / "runs", help="folder for the checkpoints")
    group.add_argument("--train-sentences", type=at_least(32), default=None, help="training sentences; all by default")
    group.add_argument(
        "--test-sentences", type=at_least(50), default=400, help="test sentences, at the end of the book"
    )
    group = parser.add_argument_group("hardware and fine-tuning")
    group.add_argument("--pairs", type=at_least(1), nargs="+", default=[1, 4], help="device pairs per weight")
    group.add_argument("--epochs", type=at_least(0), default=4, help="passes over the sentences; 0 for none")
    group.add_argument("--batch", type=at_least(2), default=32, help="sentences per step")
    group.add_argument("--lr", type=float, default=2e-4, help="peak learning rate of one cycle")
    group.add_argument("--noise", type=float, default=2.0, help="weight noise relative to the programming noise")
    group.add_argument("--clip", type=float, default=2.5, help="clipping of the weights in sigma; 0 for none")
    group.add_argument("--reach", type=float, default=10.0, help="initial input range in root mean squares")
    add_evaluation(parser, chips=5)
    return parsed(parser)


if __name__ == "__main__":
    main()
