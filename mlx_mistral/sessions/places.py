"""What the files of conversations, preferences and prompt caches are called, at home."""

DATABASE = "sessions.sqlite3"
PREFERENCES = "settings.toml"
PROMPT_CACHES = "prompt_caches"
