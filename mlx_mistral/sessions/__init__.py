"""Conversations kept on disk: messages with their branches, settings, statistics; searchable."""
