from __future__ import annotations

import numpy as np
import pytest
import torch
from made_scene import bare_fields

from maptile_loc.search.engine import spectra
from maptile_loc.search.engine.spectra import Correlator

CPU = torch.device("cpu")


def brute_force(fields, tiles, rows, columns):
    """(T, R, C) sums of fields times tiles, with the tiles' centres at each cell corner."""
    side, half = tiles.shape[-1], tiles.shape[-1] // 2
    padded = np.pad(fields, ((0, 0), (3 * side, 3 * side), (3 * side, 3 * side)))
    result = np.empty((len(tiles), rows[1] - rows[0], columns[1] - columns[0]))
    for i, row in enumerate(range(*rows)):
        for j, column in enumerate(range(*columns)):
            top, left = row - half + 3 * side, column - half + 3 * side
            window = padded[:, top : top + side, left : left + side]
            result[:, i, j] = np.einsum("chw,tchw->t", window, tiles)
    return result


def all_scores(correlator, tiles):
    """(T, R, C) scores from all parts; each position and turn is scored exactly once."""
    shape = (len(tiles), len(correlator.used), correlator.step, correlator.step)
    scores, times = torch.zeros(shape), torch.zeros(shape[:2])
    for start, blocks, part in correlator.scores(torch.from_numpy(tiles)):
        scores[start : start + len(part), blocks] = part
        times[start : start + len(part), blocks] += 1
    assert (times == 1).all()
    return torch.stack([correlator.whole(one, -1e9) for one in scores]).numpy()


@pytest.mark.parametrize(
    ("shape", "side", "rows", "columns"),
    [
        ((20, 30), 8, (4, 16), (4, 26)),  # no tile leaves the map
        ((20, 30), 8, (0, 21), (0, 31)),  # up to half of a tile beyond each edge
        ((33, 47), 8, (3, 30), (5, 7)),
        ((33, 47), 7, (0, 33), (2, 46)),  # an odd tile
        ((50, 90), 6, (10, 50), (0, 91)),  # many blocks
        ((90, 21), 12, (71, 90), (20, 21)),  # one column at the edge
        ((15, 15), 16, (0, 15), (0, 15)),  # a tile wider than the map
        ((40, 40), 8, (20, 21), (20, 21)),  # one position
        ((40, 25), 4, (-6, 46), (-3, 30)),  # positions off the map
    ],
)
def test_scores_equal_brute_force(shape, side, rows, columns):
    rng = np.random.default_rng(sum(shape) + side)
    fields = rng.normal(size=(3, *shape)).astype(np.float32)
    tiles = rng.normal(size=(2, 3, side, side)).astype(np.float32)
    correlator = Correlator(bare_fields(fields, 0.0, 0.0, 1.0), side, rows, columns, CPU)
    assert correlator.shape == (rows[1] - rows[0], columns[1] - columns[0])
    found = all_scores(correlator, tiles)
    np.testing.assert_allclose(found, brute_force(fields, tiles, rows, columns), atol=1e-3)


@pytest.mark.parametrize("few", [1, 2, 3, 64])
def test_scores_do_not_depend_on_the_size_of_parts(monkeypatch, few):
    """With 6 blocks and 7 turns, the last part is smaller than the others, or the only one."""
    monkeypatch.setattr(spectra, "PART", (32 * few) ** 2)
    rng = np.random.default_rng(7)
    fields = rng.normal(size=(2, 45, 60)).astype(np.float32)
    tiles = rng.normal(size=(7, 2, 6, 6)).astype(np.float32)
    correlator = Correlator(bare_fields(fields, 0.0, 0.0, 1.0), 6, (0, 45), (0, 60), CPU)
    assert correlator.block == 32
    assert correlator.grid == (2, 3)
    expected = brute_force(fields, tiles, (0, 45), (0, 60))
    np.testing.assert_allclose(all_scores(correlator, tiles), expected, atol=1e-3)
