"""What does a recurrent network remember of its language after a year on phase-change memory? A whole novel.

Trains an LSTM to predict the next character of Moby-Dick in float, converts it to crossbar tiles, and fine-tunes it for
the hardware, with one pair of devices a weight and with more. Programs all on chips, lets these age, and prints the
perplexity of the last twentieth of the book, which no training has seen. Writes report.json, report.csv and report.png.
A training that was stopped goes on from its last checkpoint when the same command is run again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _data import moby_dick
from _fetch import DataUnavailableError, cache_folder
from _report import Clock, add_evaluation, at_least, counted, parsed, standard_tile, table, write
from _training import batches, fit, one_cycle
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.inference import Report, accuracy_over_time

State = tuple[Tensor, Tensor]


class CharLSTM(nn.Module):
    """Characters to scores of the character that comes next.

    Args:
        characters: how many there are.
        embedding: numbers that stand for a character.
        hidden: units of each layer.
        layers: of the LSTM.
    """

    def __init__(self, characters: int, embedding: int = 64, hidden: int = 256, layers: int = 1) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, embedding)
        self.lstm = nn.LSTM(embedding, hidden, layers, batch_first=True)
        self.head = nn.Linear(hidden, characters)

    def forward(self, text: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Scores ``[n, length, characters]`` of texts ``[n, length]``, and the state that they leave."""
        y, state = self.lstm(self.embedding(text), state)
        return self.head(y), state


class Book:
    """A text as numbers of its characters, most of it to learn from and its end to be tested on.

    Args:
        text: the text.
        tested: part of it at the end.
    """

    def __init__(self, text: str, tested: float = 0.05) -> None:
        self.characters = sorted(set(text))
        number = {c: i for i, c in enumerate(self.characters)}
        numbers = torch.tensor([number[c] for c in text])
        cut = int(len(numbers) * (1.0 - tested))
        self.train, self.test = numbers[:cut], numbers[cut:]


@torch.inference_mode()
def perplexity(net: nn.Module, text: Tensor, streams: int = 64, length: int = 128) -> float:
    """Of the next character, when a text is read in streams side by side from beginning to end.

    Args:
        net: a :class:`CharLSTM` or its analog counterpart, in the mode that it is in.
        text: numbers of characters ``[n]``.
        streams: how many parts of the text are read at once.
        length: characters a pass; the state goes on from pass to pass.

    Returns:
        ``exp`` of the mean cross-entropy [nat a character].
    """
    columns = (len(text) - 1) // streams
    x, y = (text[i : i + columns * streams].view(streams, columns) for i in (0, 1))
    total, state = 0.0, None
    for seen, wanted in zip(x.split(length, 1), y.split(length, 1), strict=True):
        scores, state = net(seen, state)
        total += float(F.cross_entropy(scores.flatten(0, 1), wanted.flatten(), reduction="sum"))
    return math.exp(total / (columns * streams))


def main() -> None:
    """Run the whole story."""
    options = parse()
    clock = Clock()
    torch.manual_seed(options.seed)
    try:
        text = moby_dick(options.data)[: options.characters]
    except DataUnavailableError as error:
        sys.exit(str(error))
    book = Book(text)
    net = CharLSTM(len(book.characters), hidden=options.hidden, layers=options.layers)
    float_seconds = train("float", net, book, options, options.float_epochs, options.float_lr)
    exact = perplexity(net, book.test)
    clock.say(f"float: perplexity {exact:.3f}, trained in {float_seconds / 60:.1f} minutes")

    reports: dict[str, Report] = {}
    minutes = {"float": float_seconds / 60}
    shared: dict[str, Any] = {"chips": options.chips, "seed": options.seed, "progress": not options.quiet}
    recipe = pg.hwa.Recipe(noise=pg.hwa.PCMNoise(strength=options.noise), clip_sigma=options.clip)
    for pairs in options.pairs:
        converted, tuned = (pg.convert(net, standard_tile(pairs)) for _ in range(2))
        pg.hwa.calibrate(converted, known(book, options), recipe=None)
        pg.hwa.calibrate(tuned, known(book, options), recipe=recipe)
        seconds = train(f"hwa-{pairs}", tuned, book, options, options.epochs, options.lr)
        minutes[f"hwa, {counted(pairs)}"] = seconds / 60
        if pairs == options.pairs[0]:
            print(f"\n{pg.summary(tuned)}\n")
        clock.say(f"fine-tuned for {counted(pairs)} a weight in {seconds / 60:.1f} minutes")
        for name, candidate in (("converted+gdc", converted), ("hwa+gdc", tuned)):
            method = f"{name}, {counted(pairs)}"
            reports[method] = accuracy_over_time(
                candidate, lambda chip: perplexity(chip, book.test), options.times, **shared
            )
            clock.say(f"{method}: {options.chips} chips")
    what = "perplexity a character"
    print(f"\n{table(exact, reports, what, factor=1.0)}\n")
    for path in write(options.out, exact, reports, more={"training_minutes": minutes}, what=what, percent=False):
        print(f"wrote {path}")


def train(label: str, net: nn.Module, book: Book, options: argparse.Namespace, epochs: int, lr: float) -> float:
    """Train on windows of the book, each from an empty state; the seconds that it took."""
    length = options.length
    windows = (len(book.train) - 1) // length - 1
    at = torch.arange(length + 1)

    def make(picked: Tensor) -> Tensor:
        starts = picked * length + torch.randint(length, picked.shape)  # cut elsewhere in each epoch
        return book.train[starts.unsqueeze(1) + at]

    def loss(net: nn.Module, text: Tensor) -> Tensor:
        scores, _ = net(text[:, :-1])
        return F.cross_entropy(scores.flatten(0, 1), text[:, 1:].flatten())

    if epochs == 0:
        return 0.0
    loader = batches(windows, options.batch, options.seed, make)
    optimizer = torch.optim.AdamW(net.parameters(), lr, weight_decay=0.01, fused=True)
    schedule = one_cycle(optimizer, epochs * len(loader), 0.05)
    return fit(
        net, loader, loss, optimizer, schedule, epochs=epochs, folder=checkpoints(label, options),
        label=f"{label}, {epochs} epochs", progress=not options.quiet, norm=1.0,
    )  # fmt: skip


def known(book: Book, options: argparse.Namespace) -> list[Tensor]:
    """Texts ``[batch, length]`` that converters' ranges are found with, from the beginning of the book."""
    texts = book.train[: len(book.train) // options.length * options.length].view(-1, options.length)
    return list(texts[: 10 * options.batch].split(options.batch))


def checkpoints(label: str, options: argparse.Namespace) -> Path:
    """The folder of a training's checkpoints, which other options do not share."""
    of_float = ("hidden", "layers", "float_epochs", "float_lr", "batch", "length", "characters", "seed")
    names = of_float if label == "float" else (*of_float, "epochs", "lr", "noise", "clip")
    described = json.dumps({name: getattr(options, name) for name in names}, sort_keys=True)
    return options.runs / f"char-lstm-{label}-{hashlib.sha256(described.encode()).hexdigest()[:12]}"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    group = parser.add_argument_group("input and output")
    group.add_argument("--out", type=Path, default=Path("out/char_lstm"), help="folder of the reports")
    group.add_argument("--data", type=Path, default=None, help="folder with the book's data.txt")
    group.add_argument("--runs", type=Path, default=cache_folder() / "runs", help="folder of the checkpoints")
    group.add_argument("--characters", type=at_least(1000), default=None, help="of the book to use; all if left out")
    group = parser.add_argument_group("float training")
    group.add_argument("--hidden", type=at_least(1), default=256, help="units of each layer")
    group.add_argument("--layers", type=at_least(1), default=1, help="layers of the LSTM")
    group.add_argument("--float-epochs", type=at_least(1), default=12, help="passes over the book")
    group.add_argument("--float-lr", type=float, default=4e-3, help="peak learning rate of one cycle")
    group.add_argument("--batch", type=at_least(1), default=64, help="windows a step")
    group.add_argument("--length", type=at_least(2), default=96, help="characters of a window")
    group = parser.add_argument_group("hardware and fine-tuning")
    group.add_argument("--pairs", type=at_least(1), nargs="+", default=[1, 4], help="device pairs a weight")
    group.add_argument("--epochs", type=at_least(0), default=4, help="passes over the book; 0: none")
    group.add_argument("--lr", type=float, default=1e-3, help="peak learning rate of one cycle")
    group.add_argument("--noise", type=float, default=2.0, help="weight noise, times the spread of programming")
    group.add_argument("--clip", type=float, default=2.5, help="weights clipped at this many sigma; 0: not")
    add_evaluation(parser, chips=10)
    return parsed(parser)


if __name__ == "__main__":
    main()
