"""One node's HTTP face. Torch-free: its engines run in processes of their own."""

from ostro.server.app import create_app
from ostro.server.models import ServedModel
from ostro.server.run import serve

__all__ = ["ServedModel", "create_app", "serve"]
