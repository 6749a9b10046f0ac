"""Prompt-cache files: reading those of every generation, writing, converting, telling."""
