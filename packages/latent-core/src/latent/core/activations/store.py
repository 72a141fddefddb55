"""Activations on disk: safetensors files that are written as passes end, and read without loading them.

A folder has `activations-00000.safetensors`, ... with one tensor for each site, whose first axis is rows, and
`index.json`, which lists the files that are whole. Each is written beside its place and moved there, so that after an
interruption, however hard, the folder reads as what was finished.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from latent.core.errors import FormatError, LatentError, ShapeError, UnknownName, shown
from latent.core.files import locked, read_json, write, write_json

__all__ = ["ActivationReader", "ActivationWriter"]

INDEX = "index.json"
FORMAT = 1
_FILE = re.compile(r"activations-\d{5,}\.safetensors")
Rows = Mapping[str, Tensor]


class ActivationWriter:
    """Appends rows to a folder; a folder that has rows already is continued.

    What is in memory is at most one file's worth, and the rows that are given. The context holds the folder alone; on
    leaving, also by an exception or Ctrl-C, all rows that were given are on disk.

    Args:
        folder: Is made if it does not exist.
        megabytes: Size at which a file is written.

    Raises:
        FormatError: When the folder holds something else.
        RunFolderError: When another process writes there.
    """

    def __init__(self, folder: Path | str, *, megabytes: int | float = 64) -> None:
        self.folder = Path(folder)
        self._limit = megabytes * 2**20
        self._waiting: list[Rows] = []
        self._files: list[dict[str, Any]] = []
        self._named = 0
        self._context = contextlib.ExitStack()

    def __enter__(self) -> "ActivationWriter":
        self._waiting = []
        with contextlib.ExitStack() as context:
            context.enter_context(locked(self.folder))
            self._files = _files(self.folder) if (self.folder / INDEX).exists() else []
            self._named = len(self._files)
            context.callback(self._flush)
            self._context = context.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._context.close()

    def append(self, rows: Rows) -> None:
        """Add rows: for each site a tensor whose first axis is the same.

        Raises:
            ShapeError: When the numbers of rows differ.
            FormatError: When the sites are not those of the folder.
        """
        counts = {len(value) if value.ndim else 0 for value in rows.values()}
        if len(counts) != 1:
            raise ShapeError(f"Rows of sites that belong together were given in numbers {sorted(counts)}.")
        known = [
            *(waiting.keys() for waiting in self._waiting[:1]),
            *(each["shapes"].keys() for each in self._files[:1]),
        ]
        if any(set(rows) != set(sites) for sites in known):
            raise FormatError(
                f"{self.folder} holds {', '.join(sorted(known[0]))}, given {', '.join(sorted(rows))}.",
                hint="Write other sites to another folder.",
            )
        if self._waiting and _shapes(self._waiting[0]) != _shapes(rows):
            self._flush()  # such as prompts of another length
        self._waiting.append({site: value.detach().cpu().contiguous() for site, value in rows.items()})
        if sum(value.nbytes for waiting in self._waiting for value in waiting.values()) >= self._limit:
            self._flush()

    def _flush(self) -> None:
        """Write what waits as one file, then name it in the index; called again, do what an interruption left over."""
        if self._waiting:
            tensors = {site: torch.cat([rows[site] for rows in self._waiting]) for site in self._waiting[0]}
            name = f"activations-{len(self._files):05}.safetensors"
            write(self.folder / name, save(tensors))
            self._files.append({"file": name, "rows": _count(tensors), "shapes": _shapes(tensors)})
            self._waiting = []
        if self._named < len(self._files):
            write_json(self.folder / INDEX, {"format": FORMAT, "files": self._files})
            self._named = len(self._files)


class ActivationReader:
    """Reads rows from a folder; files are mapped into memory, so that only what is looked at is read.

    Raises:
        RunFolderError: When the folder has no index.
        FormatError: When the index or a file is not what an `ActivationWriter` writes.

    Attributes:
        sites: What each row has.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._files = _files(self.folder)
        self.sites = tuple(self._files[0]["shapes"]) if self._files else ()

    def __len__(self) -> int:
        """Return the number of rows."""
        return sum(each["rows"] for each in self._files)

    def batches(self, size: int, *sites: str) -> Iterator[dict[str, Tensor]]:
        """Yield the rows in the order in which they were written, `size` at a time, for some sites or all.

        A batch is smaller at the end, and before rows of another shape.

        Raises:
            UnknownName: When a site was not written.
        """
        if size < 1:
            raise LatentError(f"A batch has one row or more, given {size}.")
        self._check(sites)
        waiting: list[Rows] = []
        for rows in self._pieces(size, sites or self.sites):
            count = sum(map(_count, waiting))
            if waiting and _shapes(waiting[0]) != _shapes(rows):
                yield _joined(waiting)
                waiting, count = [], 0
            fits = min(size - count, _count(rows))
            waiting.append({site: value[:fits] for site, value in rows.items()})
            if count + fits == size:
                yield _joined(waiting)
                waiting = [{site: value[fits:] for site, value in rows.items()}] if fits < _count(rows) else []
        if waiting:
            yield _joined(waiting)

    def rows(self, site: str, index: Tensor) -> Tensor:
        """Return chosen rows of a site on the CPU, in the order of `index`, int64 `(n,)`: any order, also random.

        Raises:
            UnknownName: When the site was not written.
            ShapeError: When there are no such rows, or they differ in shape.
        """
        self._check((site,))
        index = index.cpu()
        if not len(index) or int(index.min()) < 0 or int(index.max()) >= len(self):
            raise ShapeError(f"Rows {shown(index.tolist())} were asked for; there are {len(self)}.")
        found: list[tuple[Tensor, Tensor]] = []
        start = 0
        for each in self._files:
            here = ((index >= start) & (index < start + each["rows"])).nonzero().flatten()
            if len(here):
                with self._open(each) as file:
                    found.append((here, file.get_tensor(site)[index[here] - start]))
            start += each["rows"]
        if len({value.shape[1:] for _, value in found}) > 1:
            raise ShapeError(f"The chosen rows of {site!r} differ in shape.", hint="Use batches().")
        order = torch.cat([here for here, _ in found])
        return torch.cat([value for _, value in found])[order.argsort()]

    def _pieces(self, size: int, sites: tuple[str, ...]) -> Iterator[dict[str, Tensor]]:
        for each in self._files:
            with self._open(each) as file:
                slices = {site: file.get_slice(site) for site in sites}
                for start in range(0, each["rows"], size):
                    yield {site: value[start : start + size] for site, value in slices.items()}

    @contextlib.contextmanager
    def _open(self, each: Mapping[str, Any]) -> Iterator[Any]:
        path = self.folder / each["file"]
        try:
            opened = safe_open(path, framework="pt")
        except (OSError, SafetensorError) as error:
            raise FormatError(f"{path} cannot be read: {error}", hint="Write the folder again.") from None
        with opened as file:
            yield file

    def _check(self, sites: tuple[str, ...]) -> None:
        for site in sites:
            if site not in self.sites:
                raise UnknownName.of("site", site, self.sites, where="Only these were written.")


def _files(folder: Path) -> list[dict[str, Any]]:
    """Read the index of a folder."""
    index = read_json(folder / INDEX)
    if not isinstance(index, dict) or index.get("format") != FORMAT or not isinstance(index.get("files"), list):
        raise FormatError(
            f"{folder / INDEX} is no index of activations of format {FORMAT}.", hint="Use another folder."
        )
    for each in index["files"]:
        whole = isinstance(each, dict) and isinstance(each.get("rows"), int) and isinstance(each.get("shapes"), dict)
        if not whole or not _FILE.fullmatch(str(each.get("file"))):
            raise FormatError(f"{folder / INDEX} has an entry that is no file of activations: {shown(each)}.")
    return list(index["files"])


def _shapes(rows: Rows) -> dict[str, list[Any]]:
    """Return dtype and shape of one row of each site, as the index has them."""
    return {site: [str(value.dtype), *value.shape[1:]] for site, value in rows.items()}


def _count(rows: Rows) -> int:
    return len(next(iter(rows.values())))


def _joined(rows: list[Rows]) -> dict[str, Tensor]:
    return {site: torch.cat([each[site] for each in rows]) for site in rows[0]}
