"""How well does a recurrent network predict text after a year on phase-change memory? On a whole novel.

Trains an LSTM in float to predict the next character of Moby-Dick, converts it to crossbar tiles, and fine-tunes it for
the hardware, with one device pair per weight and with more. Programs all networks on chips, ages the chips, and prints
the perplexity of the last twentieth of the book, which is not used for training. Writes report.json, report.csv and
report.png. When the same command is run again, an interrupted training resumes from its last checkpoint.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _data import moby_dick
from _fetch import DataUnavailableError, cache_folder
from _report import Clock, add_evaluation, at_least, counted, parsed, standard_tile, table, write
from _training import batches, checkpoint_folder, fit, one_cycle
from torch import Tensor, nn

import phasegrad as pg
from phasegrad.inference import Report, accuracy_over_time

State = tuple[Tensor, Tensor]


class CharLSTM(nn.Module):
    """An LSTM that predicts the next character.

    Args:
        characters: number of different characters.
        embedding: size of the embedding of a character.
        hidden: units per layer.
        layers: layers of the LSTM.
    """

    def __init__(self, characters: int, embedding: int = 64, hidden: int = 256, layers: int = 1) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, embedding)
        self.lstm = nn.LSTM(embedding, hidden, layers, batch_first=True)
        self.head = nn.Linear(hidden, characters)

    def forward(self, text: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Scores ``[n, length, characters]`` of texts ``[n, length]``, and the final state."""
        y, state = self.lstm(self.embedding(text), state)
        return self.head(y), state


class Book:
    """A text as indices of its characters, split into a training part and a test part at the end.

    Args:
        text: the text.
        tested: fraction of the text in the test part.
    """

    def __init__(self, text: str, tested: float = 0.05) -> None:
        self.characters = sorted(set(text))
        number = {c: i for i, c in enumerate(self.characters)}
        numbers = torch.tensor([number[c] for c in text])
        cut = int(len(numbers) * (1.0 - tested))
        self.train, self.test = numbers[:cut], numbers[cut:]


@torch.inference_mode()
def perplexity(net: nn.Module, text: Tensor, streams: int = 64, length: int = 128) -> float:
    """Perplexity of the next character, with the text read as several parallel streams.

    Args:
        net: a :class:`CharLSTM` or its analog counterpart, in its present mode.
        text: indices of characters ``[n]``.
        streams: number of parallel parts of the text.
        length: characters per forward pass; the state is carried over from pass to pass.

    Returns:
        ``exp`` of the mean cross-entropy [nat per character].
    """
    columns = (len(text) - 1) // streams
    x, y = (text[i : i + columns * streams].view(streams, columns) for i in (0, 1))
    total, state = 0.0, None
    for seen, wanted in zip(x.split(length, 1), y.split(length, 1), strict=True):
        scores, state = net(seen, state)
        total += float(F.cross_entropy(scores.flatten(0, 1), wanted.flatten(), reduction="sum"))
    return math.exp(total / (columns * streams))


def main() -> None:
    """Train, convert, fine-tune, and measure over time."""
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
        clock.say(f"fine-tuned for {counted(pairs)} per weight in {seconds / 60:.1f} minutes")
        for name, candidate in (("converted+gdc", converted), ("hwa+gdc", tuned)):
            method = f"{name}, {counted(pairs)}"
            reports[method] = accuracy_over_time(
                candidate, lambda chip: perplexity(chip, book.test), options.times, **shared
            )
            clock.say(f"{method}: {options.chips} chips")
    what = "perplexity per character"
    print(f"\n{table(exact, reports, what, factor=1.0)}\n")
    for path in write(options.out, exact, reports, more={"training_minutes": minutes}, what=what, percent=False):
        print(f"wrote {path}")


def train(label: str, net: nn.Module, book: Book, options: argparse.Namespace, epochs: int, lr: float) -> float:
    """Train on windows of the book, each from a zero state; return the training time [s]."""
    length = options.length
    windows = (len(book.train) - 1) // length - 1
    at = torch.arange(length + 1)

    def make(picked: Tensor) -> Tensor:
        starts = picked * length + torch.randint(length, picked.shape)  # different windows in each epoch
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
    """Texts ``[batch, length]`` from the beginning of the book for calibration."""
    texts = book.train[: len(book.train) // options.length * options.length].view(-1, options.length)
    return list(texts[: 10 * options.batch].split(options.batch))


def checkpoints(label: str, options: argparse.Namespace) -> Path:
    """Folder for the checkpoints of a training, unique for its options."""
    of_float = ("hidden", "layers", "float_epochs", "float_lr", "batch", "length", "characters", "seed")
    names = of_float if label == "float" else (*of_float, "epochs", "lr", "noise", "clip")
    return checkpoint_folder(options.runs, f"char-lstm-{label}", {name: getattr(options, name) for name in names})


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    group = parser.add_argument_group("input and output")
    group.add_argument("--out", type=Path, default=Path("out/char_lstm"), help="folder for the reports")
    group.add_argument("--data", type=Path, default=None, help="folder with the book's data.txt")
    group.add_argument("--runs", type=Path, default=cache_folder() / "runs", help="folder for the checkpoints")
    group.add_argument(
        "--characters", type=at_least(1000), default=None, help="number of characters to use; all by default"
    )
    group = parser.add_argument_group("float training")
    group.add_argument("--hidden", type=at_least(1), default=256, help="units per layer")
    group.add_argument("--layers", type=at_least(1), default=1, help="layers of the LSTM")
    group.add_argument("--float-epochs", type=at_least(1), default=12, help="passes over the book")
    group.add_argument("--float-lr", type=float, default=4e-3, help="peak learning rate of one cycle")
    group.add_argument("--batch", type=at_least(1), default=64, help="windows per step")
    group.add_argument("--length", type=at_least(2), default=96, help="characters per window")
    group = parser.add_argument_group("hardware and fine-tuning")
    group.add_argument("--pairs", type=at_least(1), nargs="+", default=[1, 4], help="device pairs per weight")
    group.add_argument("--epochs", type=at_least(0), default=4, help="passes over the book; 0 for none")
    group.add_argument("--lr", type=float, default=1e-3, help="peak learning rate of one cycle")
    group.add_argument("--noise", type=float, default=2.0, help="weight noise relative to the programming noise")
    group.add_argument("--clip", type=float, default=2.5, help="clipping of the weights in sigma; 0 for none")
    add_evaluation(parser, chips=10)
    return parsed(parser)


if __name__ == "__main__":
    main()
