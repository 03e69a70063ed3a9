"""How fast a run of Oxford's length opens and is read: 100,000 LMS scans in blocks of 500.

Run: python benchmarks/drives.py [number of scans]
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from stamp import stamp

from data_prep.sources import open_drive

START = 1_403_774_724_292_807


def write_run(run: Path, scans: int) -> None:
    beams = np.radians(np.arange(-135, 135.25, 0.5))
    rows = np.column_stack([10 * np.cos(beams), 10 * np.sin(beams), np.full(len(beams), 99.0)])
    content = rows.astype("<f8").tobytes()
    for offset, sensor in enumerate(("lms_front", "lms_rear")):
        (run / sensor).mkdir(parents=True)
        stamps = [START + 20_000 * i + 7_000 * offset for i in range(scans // 2)]
        for t_us in stamps:
            (run / sensor / f"{t_us}.bin").write_bytes(content)
        (run / f"{sensor}.timestamps").write_text("".join(f"{t} 1\n" for t in stamps))


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        write_run(run, count)
        start = time.perf_counter()
        scans = open_drive(run).scans
        opened = time.perf_counter() - start
        start = time.perf_counter()
        points = sum(len(scans.read(i, i + 500).points) for i in range(0, count, 500))
        read = time.perf_counter() - start
    print(stamp(), end="\n\n")
    print("| step | seconds | rate |")
    print("|---|---|---|")
    print(f"| open {count} scans | {opened:.2f} | {count / opened:,.0f} scans/s |")
    print(
        f"| read them in blocks of 500 | {read:.2f} | {count / read:,.0f} scans/s, "
        f"{points / read / 1e6:.1f} M points/s |"
    )


if __name__ == "__main__":
    main()
