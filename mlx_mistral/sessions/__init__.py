"""Conversations kept on disk: messages with their branches, settings, statistics; searchable.

Several windows read and write one `Store`.
"""

from mlx_mistral.files.home import home

from .export import export_json, export_markdown, import_file, import_json
from .plain_text import Snippet
from .preferences import Preferences, default_path, load_preferences, save_preferences
from .rows import Session
from .search import Hit
from .store import Store
from .tree import Message, Statistics, Tree
from .whole_file import write_whole

__all__ = [
    "Hit",
    "Message",
    "Preferences",
    "Session",
    "Snippet",
    "Statistics",
    "Store",
    "Tree",
    "default_path",
    "export_json",
    "export_markdown",
    "home",
    "import_file",
    "import_json",
    "load_preferences",
    "save_preferences",
    "write_whole",
]
