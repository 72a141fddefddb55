"""Figures of concept space: trajectories, times against signals, ways of asking over updates, and pictures."""

from statistics import fmean
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latent.core.report.figures import Curve, Figure, Panel, lines, scatter, trajectories
from latent.core.report.images import image_grid
from latent.gen.experiments.concept_space_asking import ASKED, HELD
from latent.gen.pictures import grid, save_animation

if TYPE_CHECKING:
    from latent.core.run.runner import Results, RunContext

__all__ = ["animate", "figures"]

_NAMES = {"00": "red big", "01": "red small", "10": "blue big", HELD: "blue small, held out"}
_WAYS = {
    "naive": "asked plainly",
    "overprompt": "exaggerated",
    "latent": "embedding shifted",
    "h-space": "middle shifted",
    "irrelevant": "irrelevant entry",
    "random": "random shift",
}
_FRAMES, _COLUMNS = 24, 8


def figures(results: "Results") -> list[Figure]:
    """Draw what the arms that were run show."""
    drawn = [*_plane(results), *(_classes(results, arm) for arm in ("weak", "strong") if arm in results)]
    if "weak" in results:
        drawn += [_asking(results), _pictures(results), _growing(results)]
    if "law" in results:
        drawn.append(_law(results))
    return drawn


def animate(results: "Results", arm: str, context: "RunContext") -> None:
    """Write pictures of each class over training as an animation into the run folder; of the first seed."""
    arrays = results.arrays(arm)
    held, steps = arrays["held"], arrays["steps"].tolist()
    frames = []
    for place in _spread(len(steps), _FRAMES):
        pictures = held[place].float().div(127.5).sub(1)
        columns = [f"{steps[place]:05d}", *[""] * (pictures.shape[1] - 1)]  # as wide in every frame
        frames.append(grid(pictures, rows=[_NAMES[each].partition(",")[0] for each in ASKED], columns=columns))
    parameters = {"method": context.method, "arm": arm, "seed": context.seeds[0], "classes": list(ASKED)}
    if len(frames) > 1:
        save_animation(frames, context.folder / f"training-{arm}.png", parameters, seconds=0.4)


def _spread(count: int, most: int) -> list[int]:
    """Return at most so many places, evenly spread, first and last among them."""
    return sorted({round(place) for place in torch.linspace(0, count - 1, min(count, most)).tolist()})


def _plane(results: "Results") -> list[Figure]:
    """Draw the trajectory of the held-out class in each arm, one path a seed."""
    panels = {}
    for arm in ("strong", "weak", "all-four", "permuted", "permuted-strong"):
        if arm in results:
            runs = range(len(results[arm]))
            paths = [_in_plane(results.arrays(arm, index)["path"][:, ASKED.index(HELD)]) for index in runs]
            panels[arm] = Panel(paths=paths, goal=(1.0, 1.0))
    if not panels:
        return []
    return [
        trajectories(
            "held-out", panels, bounds=(-0.06, 1.06, -0.06, 1.06),
            caption="Share of small (to the right) and of blue (upwards) among pictures of the held-out prompt, over "
            "training, one path a seed. The star is what is asked for: blue small. Red small is at the lower right, "
            "blue big at the upper left.",
        )
    ]  # fmt: skip


def _classes(results: "Results", arm: str) -> Figure:
    """Draw the trajectories of all classes of an arm; of the first seed."""
    path = results.arrays(arm)["path"]
    curves = {}
    for place, each in sorted(enumerate(ASKED), key=lambda pair: pair[1] != HELD):
        plane = _in_plane(path[:, place])
        curves[_NAMES[each]] = Curve(steps=plane[:, 0].tolist(), values=plane[:, 1].tolist())
    return lines(
        f"classes-{arm}", curves, x_label="share of small", y_label="share of blue",
        caption=f"{arm}: trajectories of all classes in concept space, first seed.",
    )  # fmt: skip


def _in_plane(path: Tensor) -> Tensor:
    """Return trajectories with size along x and colour along y."""
    return path[:, [1, 0]]


def _asking(results: "Results") -> Figure:
    """Draw the share of right pictures over training by way of asking, with the range over seeds."""
    runs = [results.arrays("weak", index) for index in range(len(results["weak"]))]
    curves = {}
    for family, text in _WAYS.items():
        shares = torch.stack([run[f"joint-{family}"] for run in runs])
        band = {"low": shares.amin(dim=0).tolist(), "high": shares.amax(dim=0).tolist()} if len(runs) > 1 else {}
        curves[text] = Curve(steps=runs[0]["at"].tolist(), values=shares.mean(dim=0).tolist(), **band)
    return lines(
        "asking", curves, x_label="updates", y_label="share of blue small",
        caption="What the held-out class is asked for in six ways, over training with close colours; means and ranges "
        "over seeds. Each family's best attempt, chosen on one half of the pictures and counted on the other.",
    )  # fmt: skip


def _pictures(results: "Results") -> Figure:
    """Draw pictures of the held-out class at the checkpoint of the largest gap, a row for each way of asking."""
    run, at = results.arrays("weak"), int(results["weak"][0]["gap_step"])
    place = run["at"].tolist().index(at)
    shown = torch.stack([run[f"ways-{family}"][place] for family in _WAYS])
    return image_grid(
        "ways", shown.float().div(255), rows=list(_WAYS.values()), columns=[""] * shown.shape[1],
        caption=f"weak, first seed, after {at} updates: pictures of the held-out class, the same noise in each column.",
        alt="Circles, one row for each way of asking for blue small ones.",
    )  # fmt: skip


def _growing(results: "Results") -> Figure:
    """Draw pictures of every class over training."""
    run = results.arrays("weak")
    places = _spread(len(run["steps"]), _COLUMNS)
    shown = run["held"][places][:, :, 0].transpose(0, 1)
    rows = [_NAMES[each].replace(", ", "\n") for each in ASKED]
    return image_grid(
        "training", shown.float().div(255), rows=rows, columns=[str(int(run["steps"][place])) for place in places],
        marked=[(len(rows) - 1, column) for column in range(len(places))],
        caption="weak, first seed: one picture of each class over training, by updates; the held-out class is framed.",
        alt="A row of circles for each class, over updates.",
    )  # fmt: skip


def _law(results: "Results") -> Figure:
    """Draw updates until colours are learned against their concept signal: points of one seed, or means and ranges."""
    runs = [results.arrays("law", index)["law"] for index in range(len(results["law"]))]
    points = {"one seed": {f"{colour:g}": (signal, time) for colour, signal, time in runs[0].tolist()}}
    mean = fmean(seed["rank_correlation"] for seed in results["law"])
    if len(runs) == 1 and len(runs[0]) <= 7:
        return scatter(
            "law", points, x_label="concept signal of colour", y_label="updates until learned",
            caption=f"Learning time against concept signal, by difference of colour; rank "
            f"correlation {mean:.2f}.",
        )  # fmt: skip
    times = torch.stack(runs)[:, :, 2]
    curve = Curve(
        steps=runs[0][:, 1].tolist(), values=times.mean(dim=0).tolist(), low=times.amin(dim=0).tolist(),
        high=times.amax(dim=0).tolist(),
    )  # fmt: skip
    return lines(
        "law", {"mean and range over seeds": curve}, x_label="concept signal of colour",
        y_label="updates until learned", caption=f"Learning time against concept signal; rank correlation {mean:.2f}.",
    )  # fmt: skip
