"""Costs of runs, by prices of a million tokens that the user passes or that the package genai-prices contains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nbruns.errors import SetupError, install_command
from nbruns.text import excerpt

#: Model → price of a million tokens: (input, output), (input, output, cached input), or {"input": …, "output": …}.
Prices = Mapping[str, Sequence[float] | Mapping[str, float]]


class Rates(NamedTuple):
    """Prices of a million tokens: input, output, and cached input."""

    input: float
    output: float
    cached: float


#: Rates of a model on a day; None if unknown, a function of the token counts if the price depends on them.
Rated = Rates | Callable[[int, int, int], float] | None


def cost_of(frame: pd.DataFrame, prices: Prices | None = None) -> pd.Series[Any]:
    """Return the cost of each run, missing if its token counts or the prices of its model are unknown."""
    if prices is None:
        moments = frame["created_at"].dt.floor("D")
        rated = _each_once(_rates_known, zip(frame["model"], moments, strict=True))
    else:
        own = {model: _rates_given(model, price) for model, price in prices.items()}
        rated = [own.get(model) if isinstance(model, str) else None for model in frame["model"]]
    prompt, completion, cached = (
        _floats(frame[f"{name}_tokens"]) for name in ("prompt", "completion", "cached")
    )
    cached = np.clip(np.nan_to_num(cached), 0, prompt)
    flat = np.array([each if isinstance(each, Rates) else (np.nan,) * 3 for each in rated]).reshape(-1, 3)
    costs = ((prompt - cached) * flat[:, 0] + completion * flat[:, 1] + cached * flat[:, 2]) / 1e6
    for row, each in enumerate(rated):
        if callable(each) and not isinstance(each, Rates) and not np.isnan(prompt[row] + completion[row]):
            costs[row] = each(int(prompt[row]), int(completion[row]), int(cached[row]))
    return pd.Series(pd.array(costs, dtype="Float64"), index=frame.index, name="cost")


def cost_of_tokens(model: str, prompt: int, completion: int, at: datetime | None) -> float | None:
    """Return the cost in US dollars by genai-prices; None if it doesn't know the model or is not installed."""
    day: Any = pd.NaT if at is None else pd.Timestamp(at).floor("D")
    try:
        rates = _rates_known(model, day)
    except SetupError:
        return None
    if isinstance(rates, Rates):
        return (prompt * rates.input + completion * rates.output) / 1e6
    return None if rates is None else rates(prompt, completion, 0)


def _floats(counts: pd.Series[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    numbers: Any = counts.astype("Float64").to_numpy(dtype="float64", na_value=np.nan)
    return np.asarray(numbers, dtype=np.float64)


def _each_once(rates_of: Callable[..., Rated], keys: Any) -> list[Rated]:
    known: dict[Any, Rated] = {}
    listed = list(keys)
    for key in dict.fromkeys(listed):
        known[key] = rates_of(*key)
    return [known[key] for key in listed]


def _rates_given(model: str, price: Any) -> Rates:
    parts: list[Any] = (
        [price.get(name) for name in Rates._fields] if isinstance(price, Mapping) else [*price, None][:3]
    )
    if len(parts) < 3 or not all(isinstance(part, (int, float)) for part in parts[:2]):
        raise ValueError(
            f"The price of {excerpt(model, 80)!r} has to be (input, output) or (input, output, cached) per million "
            f"tokens, or a mapping of these words, not {excerpt(repr(price), 80)}."
        )
    return Rates(float(parts[0]), float(parts[1]), float(parts[0] if parts[2] is None else parts[2]))


def _rates_known(model: Any, moment: pd.Timestamp) -> Rated:
    """Return the rates of genai-prices on a day, without network access."""
    try:
        from genai_prices import Usage, calc_price
    except ImportError as error:
        raise SetupError(
            f"The prices of models are in the package genai-prices: {install_command('cost')}. "
            "Or say what a million tokens cost: cost({'gpt-4o': (2.50, 10.00)}), input and output."
        ) from error
    if not isinstance(model, str):
        return None
    at: datetime | None = None if pd.isna(moment) else moment.to_pydatetime()

    def price(prompt: int, completion: int, cached: int) -> Any:
        used = Usage(input_tokens=prompt, output_tokens=completion, cache_read_tokens=cached)
        return calc_price(used, model, genai_request_timestamp=at)

    try:
        rates = price(1, 1, 0).model_price
    except LookupError:
        return None
    flat: list[Any] = [getattr(rates, name) for name in ("input_mtok", "output_mtok", "cache_read_mtok")]
    if any(hasattr(rate, "tiers") for rate in flat):  # the price depends on the number of tokens
        return lambda *tokens: float(price(*tokens).total_price)
    paid, written, cached = flat
    return Rates(float(paid or 0), float(written or 0), float((paid or 0) if cached is None else cached))
