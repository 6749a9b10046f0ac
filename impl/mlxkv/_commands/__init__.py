"""The commands of `mlxkv`, one a file."""
