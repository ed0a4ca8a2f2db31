"""phasegrad's version, as it was installed."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("phasegrad")
except PackageNotFoundError:  # a checkout on the path, never installed
    __version__ = "0.0.0"
