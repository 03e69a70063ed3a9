"""The descriptors of the map's views along all roads of many cities, in one quantised index.

The index is one of faiss: 8 bits per number of a descriptor, and inverted lists where there are
many views. It is written to a folder of its own, and read again while cities and model are the
same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from data_prep.city.folder import City
from data_prep.errors import MaptileError
from data_prep.files import read_json, swapped_folder, write_json
from data_prep.progress import Progress, silent
from data_prep.standing import Product, check_standing

if TYPE_CHECKING:
    from maptile_loc.models.parts.describer import Describer

MARK = "towns.json"
"""The file that marks the folder of an index."""
VIEWS_FROM = 200_000
"""Number of views from which the index has inverted lists."""
LISTS_PER_ROOT = 4
"""Number of inverted lists, times the square root of the number of views."""
PROBED = 32
"""Inverted lists that are searched for each descriptor."""
SAMPLE = 100_000
"""Views from which the quantiser learns, at most."""


@dataclass(frozen=True)
class TownIndex:
    """The views of many towns.

    Attributes:
        faiss: The index of N descriptors, by inner product.
        town: (N,) int32 number of the town of each view.
        places: (N, 2) float32 position of each view, metres east and north of the town's reference.
    """

    faiss: Any
    town: NDArray[np.int32]
    places: NDArray[np.float32]

    def similar(
        self, descriptors: NDArray[np.float32], count: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The most similar views of each of T descriptors.

        Args:
            descriptors: (T, D) float32 unit vectors.
            count: Views per descriptor, at most.

        Returns:
            (T, K) similarity, best first, and (T, K) number of the view; -1 where there are fewer.
        """
        similarity, view = self.faiss.search(descriptors, min(count, len(self.town)))
        return similarity, view

    def descriptors(self, views: NDArray[np.int64]) -> NDArray[np.float32]:
        """(V, D) the descriptors of some views, given by their (V,) numbers, as they are kept."""
        lists = _faiss().try_extract_index_ivf(self.faiss)
        if lists is not None:
            lists.make_direct_map()
        found: NDArray[np.float32] = self.faiss.reconstruct_batch(views)
        return found


def make_index(
    cities: Sequence[City], describer: Describer, progress: Progress = silent
) -> TownIndex:
    """Index the views of some cities.

    Descriptors are in memory for one city at a time, apart from the sample that the quantiser
    learns from.

    Args:
        cities: The cities; their number in the index is that in this sequence.
        describer: Describes the views of a city.
        progress: Is called after each city.

    Raises:
        MaptileError: faiss is not installed; a city has no roads.
    """
    library, counts, samples = _faiss(), [], []
    share = SAMPLE // len(cities)
    for number, (descriptors, _) in enumerate(_described(cities, describer)):
        progress("describe towns", number + 1, len(cities))
        counts.append(len(descriptors))
        samples.append(descriptors[:: max(1, -(-len(descriptors) // max(share, 1)))])
    views, length = sum(counts), samples[0].shape[1]
    lists = round(LISTS_PER_ROOT * np.sqrt(views))
    kind = "SQ8" if views < VIEWS_FROM else f"IVF{lists},SQ8"
    index = library.index_factory(length, kind, library.METRIC_INNER_PRODUCT)
    index.train(np.concatenate(samples))
    if views >= VIEWS_FROM:
        index.nprobe = PROBED
    places = []
    for number, (descriptors, at) in enumerate(_described(cities, describer)):
        index.add(descriptors)
        places.append(at)
        progress("index towns", number + 1, len(cities))
    town = np.repeat(np.arange(len(cities), dtype=np.int32), counts)
    return TownIndex(index, town, np.concatenate(places))


def kept_index(
    folder: Path | None,
    cities: Sequence[City],
    describer: Describer,
    force: bool = False,
    progress: Progress = silent,
) -> TownIndex:
    """The index that a folder keeps of these cities and this model; made if there is none.

    Args:
        folder: Its folder. An index of other cities or of another model is replaced. None: the
            index is made, and not kept.
        cities: As all that follow but ``force``, as for ``make_index``.
        describer: Describes views.
        force: Replace whatever else stands there.
        progress: Is called as the work proceeds.

    Raises:
        MaptileError: As ``make_index``; something else stands there, or it cannot be written.
    """
    if folder is None:
        return make_index(cities, describer, progress)
    library = _faiss()
    stated = {"towns": [city.content_hash for city in cities], "views": describer.key}
    keep = check_standing(folder, Product(MARK, {}), force)
    found = _read(library, folder, stated) if (folder / MARK).is_file() else None
    if found is not None:
        return found
    made = make_index(cities, describer, progress)
    with swapped_folder(folder, keep) as new:
        library.write_index(made.faiss, str(new / "index.faiss"))
        save_file({"town": made.town, "places": made.places}, new / "views.safetensors")
        names = [city.name for city in cities]
        digests = {name: _digest(new / name) for name in ("index.faiss", "views.safetensors")}
        write_json(new / MARK, {"names": names, **stated, "files": digests})
    return made


def _described(
    cities: Sequence[City], describer: Describer
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """(N, D) descriptors and (N, 2) positions of the views of each city."""
    for city in cities:
        made = describer.of_map(city)
        yield made["descriptors"].cpu().numpy(), made["places"].cpu().numpy()


def _read(library: Any, folder: Path, stated: dict[str, Any]) -> TownIndex | None:
    """The index in a folder; None if it is another one, or damaged."""
    try:
        content = read_json(folder / MARK)
        files = content.get("files", {})
        if any(content.get(key) != value for key, value in stated.items()):
            return None
        if any(_digest(folder / name) != files[name] for name in files) or len(files) != 2:
            return None
        views = load_file(folder / "views.safetensors")
        return TownIndex(
            library.read_index(str(folder / "index.faiss")), views["town"], views["places"]
        )
    except (MaptileError, OSError, SafetensorError, RuntimeError):
        return None
    except (AttributeError, KeyError, TypeError):  # the JSON is not what was written
        return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _faiss() -> Any:
    """The library faiss.

    Raises:
        MaptileError: It is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise MaptileError(
            "maptile locate needs faiss: pip install 'maptile-loc[locate]'"
        ) from None
    return faiss
