"""A teacher that another program serves: its log-probabilities over HTTP, in a cache like that of a model folder."""

from logitfusion.distill.served.description import Served, describe
from logitfusion.distill.served.reader import cache_served
from logitfusion.distill.served.server import Server

__all__ = ["Served", "Server", "cache_served", "describe"]
