"""``fit``: from raw measurements to a device."""

from __future__ import annotations
