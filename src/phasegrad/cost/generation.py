"""Language models: prefill and decoding."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from phasegrad import argument_checks as checks
from phasegrad.cost.activity import Activity, as_activity
from phasegrad.cost.conductance import conductance
from phasegrad.cost.estimation import priced, replicas_by_layer
from phasegrad.cost.printing import total
from phasegrad.cost.report import Estimate, ratio
from phasegrad.cost.tables import known
from phasegrad.cost.technology import Technology
from phasegrad.cost.tracing import Tracer

_CACHES = ("cache", "past_key_values")


@dataclass(frozen=True)
class GenerationEstimate:
    """What generating text costs; the result of [`estimate_generation`][phasegrad.cost.estimate_generation].

    The cost of a step grows linearly with the context, so all steps together cost their number times the mean of the
    first and the last.

    Attributes:
        prefill: the forward pass over the prompt, which also gives the first new token.
        first_step: the first step of decoding, or ``None`` if there is one new token.
        last_step: the last step of decoding, or ``None``.
        prompt_tokens: tokens of the prompt of each sequence.
        new_tokens: tokens that are generated for each sequence.
        sequences: sequences that are generated at the same time.
        cache_bytes: bytes of keys and values at the last step, in the dtype of the model.
    """

    prefill: Estimate
    first_step: Estimate | None
    last_step: Estimate | None
    prompt_tokens: int
    new_tokens: int
    sequences: int
    cache_bytes: int

    def _steps(self, quantity: str) -> float:
        if self.first_step is None or self.last_step is None:
            return 0.0
        ends = getattr(self.first_step, quantity) + getattr(self.last_step, quantity)
        return (self.new_tokens - 1) * ends / 2

    @property
    def decode_latency(self) -> float:
        """Time of all steps of decoding [s]; a step needs the token of the step before."""
        return self._steps("latency")

    @property
    def decode_energy(self) -> float:
        """Energy of all steps of decoding [J]."""
        return self._steps("energy")

    @property
    def latency(self) -> float:
        """Time of prefill and decoding [s]."""
        return self.prefill.latency + self.decode_latency

    @property
    def energy(self) -> float:
        """Energy of prefill and decoding [J]."""
        return self.prefill.energy + self.decode_energy

    @property
    def prefill_tokens_per_second(self) -> float:
        """Tokens of the prompts per second."""
        return ratio(self.sequences * self.prompt_tokens, self.prefill.latency)

    @property
    def decode_tokens_per_second(self) -> float:
        """New tokens of all sequences per second of decoding; NaN without steps."""
        return ratio(self._decoded, self.decode_latency) if self._decoded else float("nan")

    @property
    def prefill_tokens_per_joule(self) -> float:
        """Tokens of the prompts per joule."""
        return ratio(self.sequences * self.prompt_tokens, self.prefill.energy)

    @property
    def decode_tokens_per_joule(self) -> float:
        """New tokens per joule of decoding; NaN without steps."""
        return ratio(self._decoded, self.decode_energy) if self._decoded else float("nan")

    @property
    def _decoded(self) -> int:
        return self.sequences * (self.new_tokens - 1)

    def __str__(self) -> str:
        lines = [
            f"{self.sequences} sequence{'s' if self.sequences != 1 else ''}: prompt of {self.prompt_tokens:,} tokens, "
            f"{self.new_tokens:,} new; cache of {self.cache_bytes:,} bytes at the end",
        ]
        lines += self._rates("prefill", self.prefill, "latency", "energy", "prefill")
        if self.last_step is None:
            return "\n".join([*lines, "", "prefill:", str(self.prefill)])
        lines += self._rates("decoding", self, "decode_latency", "decode_energy", "decode")
        return "\n".join([*lines, "", "last step:", str(self.last_step)])

    def _rates(self, name: str, of: Any, latency: str, energy: str, part: str) -> list[str]:
        """A line with the cost of a part, of what is known."""
        if known(of, latency) is None and known(of, energy) is None:
            return []
        most, least = ("at most ", "at least ") if self.prefill.energy_is_upper_bound else ("", "")
        per_second, per_joule = (known(self, f"{part}_tokens_per_{unit}") for unit in ("second", "joule"))
        rates = [f"{per_second:,.4g} tokens/s"] if per_second is not None else []
        rates += [f"{least}{per_joule:,.4g} tokens/J"] if per_joule is not None else []
        costs = f"{name}: {total(of, latency, 's')}, {most}{total(of, energy, 'J')}"
        return [f"{costs}; {', '.join(rates)}" if rates else costs]


def estimate_generation(
    net: nn.Module,
    prompt: Tensor,
    new_tokens: int,
    *,
    technology: Technology | None = None,
    activity: Activity | float | None = None,
    replicas: int | Mapping[str, int] = 1,
    pipelined: bool = False,
    prefill: Callable[[Tensor], Any] | None = None,
    step: Callable[[Any, Tensor], Any] | None = None,
) -> GenerationEstimate:
    """Estimate what a language model costs, prefill and decoding apart.

    Products with weights are those of tiles. Attention, and the traffic of the cache of keys and values, belong to the
    global digital unit; appending to the cache moves what is appended.

    Args:
        net: a converted causal language model.
        prompt: tokens ``[sequences, length]``, whose values do not count.
        new_tokens: tokens to generate for each sequence; the prefill gives the first.
        technology: the constants; see [`estimate`][phasegrad.cost.estimate], also for the next three.
        activity: mean drive of the word lines; ``None`` for the upper bound.
        replicas: how often the tiles of each layer exist.
        pipelined: whether stages of a tile overlap.
        prefill: ``tokens -> example input`` of the prefill; ``None`` for the interface of transformers, with
            ``input_ids`` and ``use_cache=True``.
        step: ``(output of the prefill, token [sequences, 1]) -> example input`` of a step of decoding; ``None`` for
            that interface, with its cache.

    Raises:
        ValueError: the net does not accept these inputs, or it returns no cache of keys and values and ``step`` is
            ``None``.
    """
    caller = "estimate_generation"
    tokens = checks.tensor(caller, "prompt", prompt, "of tokens [sequences, length]")
    if tokens.dim() != 2 or tokens.numel() == 0:
        raise ValueError(f"{caller}: prompt has shape {list(tokens.shape)}; it must be [sequences, length]")
    new_tokens = checks.integer(caller, "new_tokens", new_tokens, 1)
    tracer = Tracer(net, caller)
    prefill, step = prefill or _prefill_of(net), step or _step_of(net)
    options: dict[str, Any] = {
        "technology": Technology() if technology is None else technology,
        "activity": as_activity(caller, activity, tracer.layers),
        "replicas": replicas_by_layer(replicas, tracer.layers),
        "pipelined": checks.flag(caller, "pipelined", pipelined),
        "conductances": {name: conductance(layer) for name, layer in tracer.layers.items()},
    }
    sequences, length = tokens.shape
    first = tracer.run(prefill(tokens))
    ends, cache_bytes = [], 0
    for context in (length, length + new_tokens - 2) if new_tokens > 1 else ():
        output = tracer.run(prefill(tokens.new_zeros(sequences, context))).output
        found = tracer.run(step(output, tokens.new_zeros(sequences, 1)))
        ends.append(priced(found, sequences, **options))
        cache_bytes = _bytes_of(_cache(found.output))
    return GenerationEstimate(
        prefill=priced(first, sequences, **options),
        first_step=ends[0] if ends else None,
        last_step=ends[1] if ends else None,
        prompt_tokens=length,
        new_tokens=new_tokens,
        sequences=sequences,
        cache_bytes=cache_bytes,
    )


def _prefill_of(net: nn.Module) -> Callable[[Tensor], Any]:
    """The inputs of a prefill by the interface of transformers; only the last position needs logits."""
    accepted = inspect.signature(net.forward).parameters
    last = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
    return lambda tokens: {"input_ids": tokens, "use_cache": True, **last}


def _step_of(net: nn.Module) -> Callable[[Any, Tensor], Any]:
    """The inputs of a step; the cache has one of two names, which depends on the version of transformers."""
    accepted = inspect.signature(net.forward).parameters
    name = next((name for name in _CACHES if name in accepted), _CACHES[-1])

    def step(output: Any, token: Tensor) -> Any:
        cache = _cache(output)
        if cache is None:
            raise ValueError(
                "estimate_generation: the net returned no cache of keys and values; pass prefill and step, which make "
                "the inputs of both kinds of forward pass"
            )
        return {"input_ids": token, name: cache, "use_cache": True}

    return step


def _cache(output: Any) -> Any:
    found = [output.get(name) if isinstance(output, Mapping) else getattr(output, name, None) for name in _CACHES]
    return next((cache for cache in found if cache is not None), None)


def _bytes_of(value: Any, seen: set[int] | None = None) -> int:
    """Bytes of all tensors in an object and its attributes."""
    seen = set() if seen is None else seen
    if id(value) in seen or isinstance(value, (str, bytes, int, float, type(None), type, nn.Module)):
        return 0
    seen.add(id(value))
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        parts = list(value.values())
    elif isinstance(value, (list, tuple)):
        parts = list(value)
    else:
        parts = list(getattr(value, "__dict__", {}).values())
    return sum(_bytes_of(part, seen) for part in parts)
