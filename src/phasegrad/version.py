"""Version of the installed phasegrad."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("phasegrad")
except PackageNotFoundError:  # a checkout that is on the path but not installed
    __version__ = "0.0.0"
