"""``python -m maptile_loc`` is the ``maptile`` command."""

from maptile_loc.cli import main

main()
