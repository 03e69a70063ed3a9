"""The ``maptile`` command."""
