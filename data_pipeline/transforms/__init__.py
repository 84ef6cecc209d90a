"""Changes to text before it is tokenized, declared in the config: each small, pure and counted."""
