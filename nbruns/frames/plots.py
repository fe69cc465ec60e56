"""Plots of runs: when they ran, and their usage. matplotlib is imported for the first plot.

Plots follow the matplotlib style set by the user. The default style has no background, and text and lines in a
grey that is readable on white and black, because a plot can't detect the theme of the page. Statuses have the same
colours as in the widgets. Other groups have a palette for colour-blind readers (Okabe and Ito).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from nbruns.errors import SetupError, install_command
from nbruns.text import JSON, excerpt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.ticker import Locator

_OTHER = "#999999"
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B8A800", "#8C6BB1")
#: Colours of the widgets (`--nb-good` etc. in transcript.css). Statuses that share a colour there are shades of it
#: here.
_STATUS_COLOURS = {
    "completed": "#388e3c",
    "in_progress": "#1976d2",
    "queued": "#6fb1ec",
    "requires_action": "#f57c00",
    "cancelling": "#fbb36b",
    "failed": "#d32f2f",
    "incomplete": "#a85800",
    "expired": "#8e1f1f",
    "cancelled": _OTHER,
}
#: Two greys that look the same. IPython adds a background to plots whose tick labels are all light or all dark.
_GREY, _LIGHTER = "#7f7f7f", "#808080"
_STEP_COLOURS = {"tool_calls": "#E69F00", "message_creation": "#56B4E9"}
#: Maximum number of runs that are drawn with a row and a label each. More are packed into lanes.
_NAMED = 40
#: Minimum width of a bar as a fraction of the plot, so that a run of seconds is visible in a month. It is smaller
#: for many runs, because bars wider than their duration take space from others.
_NARROWEST, _NARROWEST_OF_MANY = 0.004, 0.002
#: Maximum time span of a plot → the time that each bar covers.
_FREQUENCIES = (("3h", "5min"), ("3D", "h"), ("92D", "D"), ("730D", "W"))


def timeline(runs: pd.DataFrame, steps: pd.DataFrame | None, ax: Axes | None) -> Axes:
    """Draw one bar per run: queued in a pale colour, running in the colour of its status; steps below it."""
    runs = runs[runs["created_at"].notna()].sort_values("created_at", kind="stable").reset_index(drop=True)
    named = len(runs) <= _NAMED
    ax = ax or _new_axes(height=1.4 + 0.26 * max(len(runs), 2) if named else 4.0)
    if runs.empty:
        return _empty(ax, "no runs")
    bars = _bars(runs, _NARROWEST if named else _NARROWEST_OF_MANY)
    lanes = np.arange(len(runs)) if named else _lanes(bars)
    colours = [_STATUS_COLOURS.get(str(status), _OTHER) for status in runs["status"]]
    height = 0.42 if named and steps is not None else 0.72
    _draw(ax, lanes, bars["created"], bars["running"], height, colours, alpha=0.35)
    _draw(ax, lanes, bars["running"], bars["ended"], height, colours)
    if named:
        _draw_steps(ax, runs, steps, bars["narrowest"].iloc[0])
        ax.set_yticks(lanes, [_label(run) for run in runs.itertuples()], fontsize="small", family="monospace")
        ax.grid(axis="y", alpha=0.25)
        ax.set_axisbelow(True)
    else:
        ax.set_yticks([0], [""])  # an invisible label: see _LIGHTER
        ax.set_ylabel(f"runs, drawn at least {_roughly(bars['narrowest'].iloc[0])} wide", fontsize="small")
    ax.set_ylim(max(lanes) + 0.8, -0.8)  # the first run on top
    _legend(ax, _named_colours(runs, steps if named else None))
    ax.set_title(f"{len(runs):,} {'run' if len(runs) == 1 else 'runs'}", loc="left")
    return _dated(ax, runs["created_at"])


def usage(
    frame: pd.DataFrame,
    values: pd.Series[Any],
    by: pd.Series[Any],
    created: pd.Series[Any],
    freq: str | None,
    ax: Axes | None,
) -> Axes:
    """Draw sums of values over time, stacked by group. Groups beyond the largest are drawn as one, "others"."""
    ax = ax or _new_axes(height=3.6)
    known = created.notna() & values.notna()
    if not known.any():
        return _empty(ax, f"no {_words(values.name)}")
    freq = freq or _frequency(created[known])
    groups = _largest(by[known].astype("object").fillna("unknown"), values[known])
    amounts = values[known].astype("float64").groupby([created[known], groups]).sum().unstack(fill_value=0)
    amounts = amounts.resample(freq, label="left", closed="left").sum()
    amounts = amounts[amounts.sum().sort_values(ascending=False).index]
    lefts = _days(pd.Series(amounts.index))
    width = float(np.median(np.diff(lefts))) if len(lefts) > 1 else _days_of(pd.Timedelta("1h"))
    bottom = np.zeros(len(amounts))
    colours = _colours(amounts.columns)
    for name, amount in amounts.items():
        ax.bar(
            lefts,
            amount,
            width * 0.86,
            bottom=bottom,
            align="edge",
            color=colours[name],
            label=excerpt(name, 40),
        )
        bottom += amount.to_numpy()
    middle, half = (lefts[0] + lefts[-1] + width) / 2, max(len(lefts), 12) * width / 2
    ax.set_xlim(middle - half * 1.02, middle + half * 1.02)  # keeps bars narrow if there are few
    sign = "$" if values.name == "cost" else ""
    ax.yaxis.set_major_formatter(lambda value, _: sign + _engineering(value, _))
    if pd.api.types.is_integer_dtype(values):  # whole numbers have no fractional ticks
        ax.yaxis.set_major_locator(_whole_numbers())
    ax.grid(axis="y", alpha=0.25)
    ax.set_axisbelow(True)
    total = sign + _engineering(values[known].astype("float64").sum(), None)
    ax.set_title(f"{_words(values.name)}: {total}, by {_words(by.name)}", loc="left")
    _legend(ax)
    return _dated(ax, created)


def comparison(table: pd.DataFrame, scores: Sequence[str], ax: Axes | None) -> Axes:
    """Draw the mean of each score for each variant, with its confidence interval."""
    ax = ax or _new_axes(height=1.2 + 0.34 * max(1, len(scores) * len(table)))
    if table.empty or not scores:
        return _empty(ax, "no scores")
    colours = _colours(scores)
    step = 0.7 / len(scores)
    for number, score in enumerate(scores):
        mean = table[score].to_numpy(dtype="float64", na_value=np.nan)
        low, high = (
            table[f"{score}_{side}"].to_numpy(dtype="float64", na_value=np.nan) for side in ("low", "high")
        )
        places = np.arange(len(table)) + (number - (len(scores) - 1) / 2) * step
        reach = np.nan_to_num(np.vstack([mean - low, high - mean]))
        label = excerpt(score, 40)
        ax.errorbar(mean, places, xerr=reach, fmt="o", color=colours[score], capsize=3, label=label)
    ax.set_yticks(range(len(table)), [excerpt(name, 40) for name in table.index])
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.grid(axis="x", alpha=0.25)
    ax.set_axisbelow(True)
    ax.set_xlabel("mean, with the interval that holds it in 95 % of resamples of the prompts")
    ax.set_title(
        f"{', '.join(excerpt(score, 40) for score in scores)}, by {_words(table.index.name)}", loc="left"
    )
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    _legend(ax, {excerpt(score, 40): colours[score] for score in scores})
    return ax


def _new_axes(height: float) -> Axes:
    try:
        import matplotlib as mpl
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise SetupError(f"Pictures need the package matplotlib: {install_command('plot')}") from error
    if mpl.rcParams["figure.facecolor"] != mpl.rcParamsDefault["figure.facecolor"]:  # the user's own style
        return plt.subplots(figsize=(9, height), layout="constrained")[1]
    greys: Any = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "grid.color"), _GREY)
    # Create the figure first. It loads the backend, which may turn on interactive mode; the context would undo
    # that.
    figure = plt.figure(figsize=(9, height), layout="constrained")
    with plt.rc_context(greys):
        ax = figure.subplots()
    for patch in (figure.patch, ax.patch):
        patch.set_alpha(0)
    ax.tick_params(axis="x", colors=_GREY)
    ax.tick_params(axis="y", colors=_LIGHTER)
    return ax


def _empty(ax: Axes, words: str) -> Axes:
    colour = ax.title.get_color()
    ax.text(0.5, 0.5, words, ha="center", va="center", transform=ax.transAxes, color=colour)
    ax.set_axis_off()
    return ax


def _bars(runs: pd.DataFrame, narrowest_part: float) -> pd.DataFrame:
    """Return the times at which each run was created, started and ended, in matplotlib's days.

    For an active run, the end is the latest time of all runs.
    """
    created = runs["created_at"]
    started = created + runs["queued_time"]
    ended = created + runs["duration"]
    last = pd.concat([created, started, ended]).max()
    active = runs["status"].isin(["queued", "in_progress", "requires_action", "cancelling"])
    ended = ended.fillna(started).fillna(created).where(~active, last)
    started = started.fillna(ended)
    narrowest = max(_days_of(last - created.min()) * narrowest_part, _days_of(pd.Timedelta("50ms")))
    bars = pd.DataFrame({"created": _days(created), "running": _days(started), "ended": _days(ended)})
    bars["ended"] = bars["ended"].where(
        bars["ended"] - bars["running"] > narrowest, bars["running"] + narrowest
    )
    return bars.assign(narrowest=narrowest)


def _lanes(bars: pd.DataFrame) -> np.ndarray[Any, Any]:
    """Return for each bar the first lane in which it doesn't overlap another bar."""
    free_from: list[float] = []
    lanes = []
    for begin, end in zip(bars["created"].tolist(), bars["ended"].tolist(), strict=True):
        lane = next((n for n, free in enumerate(free_from) if free <= begin), len(free_from))
        free_from[lane : lane + 1] = [end]
        lanes.append(lane)
    return np.array(lanes)


def _draw_steps(ax: Axes, runs: pd.DataFrame, steps: pd.DataFrame | None, narrowest: float) -> None:
    if steps is None:
        return
    lane_of = {run: lane for lane, run in enumerate(runs["id"])}
    own = steps[steps["run_id"].isin(lane_of) & steps["created_at"].notna()]
    lanes = [lane_of[run] + 0.38 for run in own["run_id"]]
    begun = _days(own["created_at"])
    lasted = own["duration"].fillna(pd.Timedelta(0)).dt.total_seconds().to_numpy() / 86_400
    colours = [_STEP_COLOURS.get(str(kind), _OTHER) for kind in own["type"]]
    _draw(ax, lanes, begun, begun + np.maximum(lasted, narrowest), 0.2, colours)


def _draw(
    ax: Axes, lanes: Any, begun: Any, ended: Any, height: float, colours: list[str], alpha: float = 1.0
) -> None:
    """Draw bars as one collection: thousands of separate patches would take matplotlib many seconds."""
    from matplotlib.collections import PolyCollection

    low, high = np.asarray(lanes) - height / 2, np.asarray(lanes) + height / 2
    corners = [(begun, low), (begun, high), (ended, high), (ended, low)]
    bars = np.stack([np.column_stack(corner) for corner in corners], axis=1)
    ax.add_collection(PolyCollection(list(bars), facecolors=colours, alpha=alpha, linewidths=0))
    ax.autoscale_view()


def _label(run: Any) -> str:
    identity = excerpt(run.id, 60)
    return identity if len(identity) <= 16 else f"{identity[:8]}…{identity[-6:]}"


def _named_colours(runs: pd.DataFrame, steps: pd.DataFrame | None) -> dict[str, str]:
    statuses = runs["status"].value_counts()
    named = {f"{n:,} {name}": _STATUS_COLOURS.get(str(name), _OTHER) for name, n in statuses.items() if n}
    if steps is not None:
        named |= {
            f"step: {_words(kind)}": _STEP_COLOURS.get(str(kind), _OTHER) for kind in steps["type"].unique()
        }
    return named


def _legend(ax: Axes, named: dict[str, str] | None = None) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, label=name) for name, colour in named.items()] if named else None
    place: JSON = {
        "loc": "upper left",
        "bbox_to_anchor": (1.0, 1.0),
        "frameon": False,
        "fontsize": "small",
        "labelcolor": ax.title.get_color(),
    }
    # Bars are stacked from the bottom, so the last group is on top.
    ax.legend(handles=handles, **place) if handles else ax.legend(reverse=True, **place)


def _dated(ax: Axes, times: pd.Series[Any]) -> Axes:
    from matplotlib import dates

    zone = times.dt.tz
    in_dates: Any = dates  # matplotlib.dates has no types
    locator = in_dates.AutoDateLocator(tz=zone, maxticks=8)
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(in_dates.ConciseDateFormatter(locator, tz=zone))
    ax.set_xlabel(f"time ({zone})")
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.tick_params(axis="y", length=0)
    return ax


def _days(times: Any) -> np.ndarray[Any, Any]:
    """Return times in matplotlib's unit: days since 1970, in UTC."""
    return np.asarray((times - pd.Timestamp(0, tz="UTC")) / pd.Timedelta("1D"), dtype="float64")


def _days_of(duration: pd.Timedelta) -> float:
    return duration / pd.Timedelta("1D")


def _frequency(times: pd.Series[Any]) -> str:
    shown = times.max() - times.min()
    return next((freq for most, freq in _FREQUENCIES if shown <= pd.Timedelta(most)), "MS")


def _largest(groups: pd.Series[Any], values: pd.Series[Any]) -> pd.Series[Any]:
    """Return the groups. The smallest are replaced by "others" if there are more groups than colours."""
    sums = values.astype("float64").groupby(groups).sum().nlargest(len(_COLOURS))
    return groups.where(groups.isin(sums.index), "others")


def _colours(names: Iterable[Any]) -> dict[Any, str]:
    """Return a colour for each name. Statuses have fixed colours. Other names get colours in the order of their names,
    so that plots of tokens and of costs use the same ones."""
    given = {name: _STATUS_COLOURS.get(str(name)) for name in names}
    left = (colour for colour in _COLOURS if colour not in given.values())
    ordered = sorted(given, key=str)
    others = {name: _OTHER if name == "others" else next(left, _OTHER) for name in ordered if not given[name]}
    return {name: colour or others[name] for name, colour in given.items()}


def _roughly(days: float) -> str:
    """Return a number of days as text with a unit: 0.0521 as "75 min"."""
    for unit, name in ((1, "days"), (1 / 24, "h"), (1 / 1440, "min"), (1 / 86_400, "s")):
        if days >= 2 * unit:
            return f"{days / unit:.0f} {name}"
    return f"{days * 86_400:.1g} s"


def _whole_numbers() -> Locator:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10])


def _engineering(value: float, _: Any) -> str:
    """Return a number as text with a metric prefix: 1234567 as 1.23M."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"


def _words(name: Iterable[str] | Any) -> str:
    return str(name).replace("_", " ").removesuffix(" id")
