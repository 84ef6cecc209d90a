"""Facts about machines and the environment that their processes need. Starts nothing. Standard library only."""
